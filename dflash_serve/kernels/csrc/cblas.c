/* The C interface MLX imports: argument forms to row-major jobs, choice of instruction set, and the
 * split of columns over threads. */
#include "blas.h"

#include <string.h>

enum { ROW_MAJOR = 101, COLUMN_MAJOR = 102, NO_TRANSPOSE = 111 };

#define COLUMN_STEP 64            /* columns go to threads in whole panels */
#define LEAST_WORK (5 << 19)      /* multiply-adds below which waking a thread costs more */
#define WORK_PER_PART (1 << 19)
#define MOST_THREADS 64
#define PARTS_PER_THREAD 4 /* whoever is free takes the next one: a busy core holds up less */

static const blas_isa *const known[] = {
#if defined(__x86_64__)
    &isa_avx512, &isa_avx2,
#elif defined(__aarch64__)
    &isa_neon,
#endif
    &isa_generic,
};

static const blas_isa *chosen = &isa_generic;
static int threads = 1;

__attribute__((constructor)) static void choose_best(void) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i]->runs_here()) {
            chosen = known[i];
            return;
        }
}

const blas_isa *isa_in_use(void) { return chosen; }
int threads_in_use(void) { return threads; }

/* 1 if `name` is now in use, 0 if this build or processor lacks it. Not while matmuls run. */
EXPORT int dflash_blas_select(const char *name) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i]->name, name) && known[i]->runs_here()) {
            chosen = known[i];
            return 1;
        }
    return 0;
}

EXPORT const char *dflash_blas_isa(void) { return chosen->name; }

/* Returns the number in effect. Not while matmuls run. */
EXPORT int dflash_blas_set_threads(int count) {
    threads = count < 1 ? 1 : count > MOST_THREADS ? MOST_THREADS : count;
    return threads;
}

typedef struct {
    const gemm_job *job;
    gemm_fn run;
    int parts;
    int by_rows_of_b; /* dot: column n starts at b + n*ldb; seq: at b + n */
} split;

static void run_part(void *context, int index) {
    const split *s = context;
    gemm_job part = *s->job;
    int panels = (int)(round_up(part.N, COLUMN_STEP) / COLUMN_STEP);
    int from = tile_start(panels, s->parts, index) * COLUMN_STEP;
    int to = tile_start(panels, s->parts, index + 1) * COLUMN_STEP;
    part.N = (to < s->job->N ? to : s->job->N) - from;
    part.b += s->by_rows_of_b ? from * part.ldb : from;
    part.c += from;
    if (part.N > 0) s->run(&part);
}

/* Into how many parts a job is cut, if its shape allows; 1 where threads do not pay. */
static int parts_of(const gemm_job *job) {
    long long work = (long long)job->M * job->N * job->K, parts = work / WORK_PER_PART;
    int most = threads * PARTS_PER_THREAD;
    return threads == 1 || work < LEAST_WORK ? 1 : parts < most ? (int)parts : most;
}

static void run_job(const gemm_job *job, gemm_fn run, int by_rows_of_b) {
    int panels = (int)(round_up(job->N, COLUMN_STEP) / COLUMN_STEP);
    split s = {job, run, least(parts_of(job), panels), by_rows_of_b};
    if (s.parts > 1) pool_run(s.parts, run_part, &s);
    else run(job);
}

/* Rows from which packing B is repaid: fewer where a panel of it stays in the first-level cache. */
static int packing_pays(const gemm_job *job, int lanes) {
    int rows = job->K <= 256 || lanes == 1 ? 32 : 96;
    return job->M >= rows && (lanes == 1 || job->N >= chosen->tall->columns / 2);
}

void dot_alone(const gemm_job *job) {
    if (packing_pays(job, 16)) tall_gemm(chosen->tall, job, 16, 1);
    else chosen->dot(job);
}

static void scale(int M, int N, float beta, float *c, ptrdiff_t ldc) {
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) c[i * ldc + j] = beta == 0.0f ? 0.0f : beta * c[i * ldc + j];
}

EXPORT void cblas_sgemm(int order, int ta, int tb, int M, int N, int K, float alpha, const float *a,
                        int lda, const float *b, int ldb, float beta, float *c, int ldc) {
    if (order == COLUMN_MAJOR) { /* C^T = B^T A^T, and a column-major matrix is its transpose */
        cblas_sgemm(ROW_MAJOR, tb, ta, N, M, K, alpha, b, ldb, a, lda, beta, c, ldc);
        return;
    }
    if (M <= 0 || N <= 0) return;
    if (K <= 0 || alpha == 0.0f) {
        scale(M, N, beta, c, ldc);
        return;
    }
    gemm_job job = {.M = M, .N = N, .K = K, .a = a, .b = b, .ldb = ldb, .c = c, .ldc = ldc,
                    .alpha = alpha, .beta = beta};
    job.a_row = ta == NO_TRANSPOSE ? lda : 1;
    job.a_col = ta == NO_TRANSPOSE ? 1 : lda;
    int lanes = tb == NO_TRANSPOSE ? 1 : 16;
    if (packing_pays(&job, lanes)) tall_gemm(chosen->tall, &job, lanes, parts_of(&job));
    else if (lanes == 1) run_job(&job, chosen->seq, 0);
    else run_job(&job, chosen->dot, 1);
}
