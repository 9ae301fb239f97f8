/* What the elementwise functions and those of rows are given, by threads in ranges. */
#ifndef DFLASH_ROW_JOBS_H
#define DFLASH_ROW_JOBS_H

#include "dflash_cpu.h"

typedef enum { SWIGLU, GEGLU, CLIPPED_SWIGLU } gated_unit;

typedef struct {
    gated_unit unit;
    const float *gate, *up;
    float *out;
    float alpha, limit;
} gated_job;

typedef struct {
    const float *x;
    dflash_norm norm;
    float *out;
    int width;
} norm_job;

typedef struct {
    dflash_heads heads;
    dflash_norm norm;
    int normed;
    const float *cos, *sin;
    int half;
    float *out;
} rotary_job;

typedef struct {
    const float *x;
    int *out;
    int width;
} argmax_job;

typedef struct {
    const float *x;
    float *values;
    int *ids;
    int width, count;
} top_job;

#endif
