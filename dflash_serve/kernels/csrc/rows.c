/* Functions of rows for the extension: ranges of rows go to threads. */
#include "blas.h"
#include "dflash_cpu.h"

#define LEAST_PER_PART 16384 /* numbers below which waking a thread costs more */

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

static void run_rows(rows_fn run, const void *job, ptrdiff_t rows, int width) {
    ptrdiff_t most = 4 * (ptrdiff_t)threads_in_use(), parts = rows * width / LEAST_PER_PART;
    if (parts > rows) parts = rows;
    if (parts > most) parts = most;
    row_parts p = {run, job, rows, most == 4 || parts < 1 ? 1 : (int)parts};
    if (p.parts == 1) row_part(&p, 0);
    else pool_run(p.parts, row_part, &p);
}

static void norm_range(const void *job, ptrdiff_t from, ptrdiff_t to) {
    isa_in_use()->norm_rows(job, from, to);
}
static void rotary_range(const void *job, ptrdiff_t from, ptrdiff_t to) {
    isa_in_use()->rotate_rows(job, from, to);
}
static void argmax_range(const void *job, ptrdiff_t from, ptrdiff_t to) {
    isa_in_use()->argmax_rows(job, from, to);
}

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
