/* Elementwise functions for the extension: ranges of an array go to threads. */
#include "blas.h"
#include "dflash_cpu.h"

#define LEAST_PER_PART 8192 /* numbers below which waking a thread costs more */

static int parts_of(ptrdiff_t count) {
    ptrdiff_t most = 4 * (ptrdiff_t)threads_in_use(), parts = count / LEAST_PER_PART;
    return (int)(most == 4 || parts < 1 ? 1 : parts < most ? parts : most);
}

typedef struct {
    gated_job job;
    ptrdiff_t count;
    int parts;
} gated_parts;

static void gated_part(void *context, int index) {
    const gated_parts *p = context;
    isa_in_use()->gated(&p->job, p->count * index / p->parts, p->count * (index + 1) / p->parts);
}

static void run_gated(gated_job job, ptrdiff_t count) {
    gated_parts p = {job, count, parts_of(count)};
    if (p.parts == 1) gated_part(&p, 0);
    else pool_run(p.parts, gated_part, &p);
}

EXPORT void dflash_swiglu(const float *gate, const float *up, float *out, ptrdiff_t count) {
    run_gated((gated_job){SWIGLU, gate, up, out, 0, 0}, count);
}

EXPORT void dflash_geglu(const float *gate, const float *up, float *out, ptrdiff_t count) {
    run_gated((gated_job){GEGLU, gate, up, out, 0, 0}, count);
}

EXPORT void dflash_clipped_swiglu(const float *gate, const float *up, float *out, ptrdiff_t count,
                                  float alpha, float limit) {
    run_gated((gated_job){CLIPPED_SWIGLU, gate, up, out, alpha, limit}, count);
}
