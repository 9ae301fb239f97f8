/* Gradients and what only training computes: ranges go to threads. Sums over rows are those of
 * parts whose number follows from the sizes alone, so no result depends on threads. */
#include "blas.h"

#include <string.h>

#define LEAST_PER_PART 16384 /* numbers, below which waking a thread costs more */
#define MOST_PARTS 16

typedef void (*range_fn)(const void *job, ptrdiff_t from, ptrdiff_t to, float *to_weight);

typedef struct {
    range_fn run;
    const void *job;
    ptrdiff_t rows;
    int parts, width; /* of the partial sums of weights' gradients, 0 for none */
    float *sums;
} ranges;

static void range_part(void *context, int index) {
    const ranges *r = context;
    float *sums = r->width ? r->sums + (ptrdiff_t)index * r->width : NULL;
    if (sums) memset(sums, 0, (size_t)r->width * sizeof(float));
    r->run(r->job, r->rows * index / r->parts, r->rows * (index + 1) / r->parts, sums);
}

/* Ranges of `rows` of `width` numbers; `to_weight` [width], or NULL, gets the sum over all rows. */
static void run_ranges(range_fn run, const void *job, ptrdiff_t rows, int width, float *to_weight) {
    ptrdiff_t parts = rows * width / LEAST_PER_PART;
    if (parts > MOST_PARTS) parts = MOST_PARTS;
    if (parts > rows) parts = rows;
    if (parts < 1) parts = 1;
    ranges r = {run, job, rows, (int)parts, to_weight ? width : 0, NULL};
    if (to_weight) r.sums = scratch_for(SCRATCH_GRADIENT, (size_t)(parts * width));
    pool_run(r.parts, range_part, &r);
    for (int k = 0; to_weight && k < width; k++) {
        float sum = 0.0f;
        for (int part = 0; part < r.parts; part++) sum += r.sums[(ptrdiff_t)part * width + k];
        to_weight[k] = sum;
    }
}

#define RANGE(name, call)                                                             \
    static void name(const void *job, ptrdiff_t from, ptrdiff_t to, float *to_weight) {     \
        (void)to_weight;                                                                    \
        isa_in_use()->call;                                                                 \
    }
RANGE(swiglu_range, swiglu_grad(job, from, to))
RANGE(norm_range, norm_rows_grad(job, from, to, to_weight))
RANGE(rotary_range, rotate_rows_grad(job, from, to, to_weight))
RANGE(convolve_range, convolve_rows_grad(job, from, to, to_weight))
RANGE(entropy_range, entropy_rows(job, from, to))
RANGE(entropy_grad_range, entropy_rows_grad(job, from, to))
RANGE(adamw_part, adamw(job, from, to))
RANGE(squares_range, square_sums(job, from, to))

EXPORT void dflash_swiglu_grad(const float *gate, const float *up, const float *to_out,
                               float *to_gate, float *to_up, ptrdiff_t count) {
    swiglu_grad_job job = {gate, up, to_out, to_gate, to_up};
    run_ranges(swiglu_range, &job, count, 1, NULL);
}

EXPORT void dflash_rms_norm_grad(const dflash_norm *norm, const float *x, const float *to_out,
                                 float *to_x, float *to_weight, ptrdiff_t rows, int width) {
    norm_grad_job job = {x, to_out, *norm, to_x, width};
    run_ranges(norm_range, &job, rows, width, to_weight);
}

EXPORT void dflash_rotary_grad(const dflash_heads *heads, const dflash_norm *norm, const float *cos,
                               const float *sin, int half, const dflash_heads *to_out, float *to_x,
                               float *to_weight) {
    rotary_grad_job job = {*heads, *to_out, norm ? *norm : (dflash_norm){0}, norm != NULL,
                           cos, sin, half, to_x};
    ptrdiff_t rows = (ptrdiff_t)heads->batch * heads->heads * heads->columns;
    run_ranges(rotary_range, &job, rows, heads->dim, to_weight);
}

EXPORT void dflash_convolve_grad(const dflash_convolution *of, const float *to_out, float *to_x,
                                 float *to_base, float *to_own) {
    convolve_grad_job job = {*of, to_out, to_x, to_own};
    run_ranges(convolve_range, &job, of->rows, of->taps * of->hidden, to_base);
}

EXPORT void dflash_entropy(const float *logits, const int *labels, float *losses, float *log_sums,
                           ptrdiff_t rows, int width) {
    entropy_job job = {logits, labels, losses, log_sums, width};
    run_ranges(entropy_range, &job, rows, width, NULL);
}

EXPORT void dflash_entropy_grad(const float *logits, const int *labels, const float *log_sums,
                                const float *to_losses, float *to_logits, ptrdiff_t rows,
                                int width) {
    entropy_grad_job job = {logits, log_sums, to_losses, labels, to_logits, width};
    run_ranges(entropy_grad_range, &job, rows, width, NULL);
}

EXPORT void dflash_adamw_step(const dflash_adamw *job, ptrdiff_t count) {
    run_ranges(adamw_part, job, count, 1, NULL);
}

EXPORT double dflash_sum_of_squares(const float *x, ptrdiff_t count) {
    ptrdiff_t sums = (count + SQUARES_PER_SUM - 1) / SQUARES_PER_SUM;
    squares_job job = {x, count, scratch_for(SCRATCH_GRADIENT, (size_t)sums)};
    run_ranges(squares_range, &job, sums, SQUARES_PER_SUM, NULL);
    double total = 0.0;
    for (ptrdiff_t i = 0; i < sums; i++) total += job.sums[i];
    return total;
}

/* One part per sequence and key head: each writes gradients of its own keys and values. */
static void blocks_part(void *context, int index) {
    const dflash_blocks *job = context;
    isa_in_use()->attend_blocks(job, index / job->keys.heads, index % job->keys.heads);
}

static void blocks_grad_part(void *context, int index) {
    const dflash_blocks *job = context;
    isa_in_use()->attend_blocks_grad(job, index / job->keys.heads, index % job->keys.heads);
}

EXPORT void dflash_attend_blocks(const dflash_blocks *job) {
    pool_run(job->keys.batch * job->keys.heads, blocks_part, (void *)job);
}

EXPORT void dflash_attend_blocks_grad(const dflash_blocks *job) {
    pool_run(job->keys.batch * job->keys.heads, blocks_grad_part, (void *)job);
}
