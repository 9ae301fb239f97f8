/* What the functions of training are given, by threads in ranges. */
#ifndef DFLASH_GRAD_JOBS_H
#define DFLASH_GRAD_JOBS_H

#include "dflash_cpu.h"

typedef struct {
    const float *gate, *up, *to_out;
    float *to_gate, *to_up;
} swiglu_grad_job;

typedef struct {
    const float *x, *to_out;
    dflash_norm norm;
    float *to_x;
    int width;
} norm_grad_job;

/* `to_x` is [batch, columns, heads, dim]: what a projection gives. */
typedef struct {
    dflash_heads heads, to_out;
    dflash_norm norm;
    int normed;
    const float *cos, *sin;
    int half;
    float *to_x;
} rotary_grad_job;

typedef struct {
    const float *logits;
    const int *labels;
    float *losses, *log_sums;
    int width;
} entropy_job;

typedef struct {
    const float *logits, *log_sums, *to_losses;
    const int *labels;
    float *to_logits;
    int width;
} entropy_grad_job;

/* `of`: the convolution, without its output. */
typedef struct {
    dflash_convolution of;
    const float *to_out;
    float *to_x, *to_own;
} convolve_grad_job;

#define SQUARES_PER_SUM 4096

typedef struct {
    const float *x;
    ptrdiff_t count;
    float *sums;
} squares_job;

#endif
