/* Functions of rows and of single numbers for the extension: their ranges go to threads. */
#include "blas.h"
#include "dflash_cpu.h"

/* Numbers below which waking a thread costs more; a gated unit computes an exponential for each. */
#define LEAST_PER_PART 16384
#define LEAST_GATED_PER_PART 8192

typedef void (*rows_fn)(const void *job, ptrdiff_t from, ptrdiff_t to);

typedef struct {
    rows_fn run;
    const void *job;
    ptrdiff_t rows;
    int parts;
} row_parts;

static void row_part(void *context, int index) {
    const row_parts *p = context;
    p->run(p->job, p->rows * index / p->parts, p->rows * (index + 1) / p->parts);
}

static void run_parts(rows_fn run, const void *job, ptrdiff_t rows, ptrdiff_t parts) {
    ptrdiff_t most = 4 * (ptrdiff_t)threads_in_use();
    if (parts > rows) parts = rows;
    if (parts > most) parts = most;
    row_parts p = {run, job, rows, most == 4 || parts < 1 ? 1 : (int)parts};
    if (p.parts == 1) row_part(&p, 0);
    else pool_run(p.parts, row_part, &p);
}

static void run_rows(rows_fn run, const void *job, ptrdiff_t rows, int width) {
    run_parts(run, job, rows, rows * width / LEAST_PER_PART);
}

#define RANGE(name, call)                                                  \
    static void name(const void *job, ptrdiff_t from, ptrdiff_t to) {      \
        isa_in_use()->call(job, from, to);                                 \
    }
RANGE(norm_range, norm_rows)
RANGE(rotary_range, rotate_rows)
RANGE(argmax_range, argmax_rows)
RANGE(gated_range, gated)
RANGE(convolve_range, convolve_rows)
RANGE(top_range, top_rows)
RANGE(walk_range, walk_rows)

EXPORT void dflash_rms_norm(const dflash_norm *norm, const float *x, float *out, ptrdiff_t rows,
                            int width) {
    norm_job job = {x, *norm, out, width};
    run_rows(norm_range, &job, rows, width);
}

EXPORT void dflash_rotary(const dflash_heads *heads, const dflash_norm *norm, const float *cos,
                          const float *sin, int half, float *out) {
    rotary_job job = {*heads, norm ? *norm : (dflash_norm){0}, norm != NULL, cos, sin, half, out};
    run_rows(rotary_range, &job, (ptrdiff_t)heads->batch * heads->heads * heads->columns,
             heads->dim);
}

EXPORT void dflash_argmax(const float *x, int *out, ptrdiff_t rows, int width) {
    argmax_job job = {x, out, width};
    run_rows(argmax_range, &job, rows, width);
}

EXPORT void dflash_convolve(const dflash_convolution *job) {
    run_rows(convolve_range, job, job->rows, job->hidden * job->taps);
}

EXPORT void dflash_top(const float *x, ptrdiff_t rows, int width, int count, float *values,
                       int *ids) {
    top_job job = {x, values, ids, width, count};
    run_rows(top_range, &job, rows, width);
}

EXPORT void dflash_walk_blocks(const dflash_walk *job) {
    run_rows(walk_range, job, job->rows, job->columns * job->count * job->rank);
}

static void run_gated(gated_job job, ptrdiff_t count) {
    run_parts(gated_range, &job, count, count / LEAST_GATED_PER_PART);
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
