/* What the parts of the library share: the normalised job, the table of one instruction set,
 * scratch memory and the thread pool. Everything is row-major here. */
#ifndef DFLASH_BLAS_H
#define DFLASH_BLAS_H

#include <stddef.h>

#include "choice.h"
#include "dflash_cpu.h"
#include "dflash_train.h"
#include "grad_jobs.h"
#include "qmm.h"
#include "row_jobs.h"

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline, unused))

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

/* C[M,N] = alpha * A B + beta * C, with A(i,k) = a[i*a_row + k*a_col].
 * dot: column n of B is the contiguous vector b + n*ldb (x W^T).
 * seq: row k of B is the contiguous vector b + k*ldb (P V). */
typedef struct {
    int M, N, K;
    const float *a;
    ptrdiff_t a_row, a_col;
    const float *b;
    ptrdiff_t ldb;
    float *c;
    ptrdiff_t ldc;
    float alpha, beta;
} gemm_job;

typedef void (*gemm_fn)(const gemm_job *job);

/* A job of many rows (tall.c): a block of rows of A, cut into tiles and packed. */
typedef struct {
    const gemm_job *job;
    int lanes; /* 16: dot, one sum for each k modulo 16; 1: seq */
    int row, rows, tiles;
    int depth, blocks; /* k per block, a multiple of 16 where there are several */
    float *packed;     /* [tiles][blocks][tall_block] */
} tall_job;

typedef struct {
    int rows, columns, a_width; /* of a tile of C; of a packed tile of A, padding included */
    void (*pack)(const tall_job *job, int tile);
    void (*panel)(const tall_job *job, int panel, int from_tile, int to_tile);
} tall_isa;

typedef struct {
    const char *name;
    int (*runs_here)(void);
    gemm_fn dot;
    gemm_fn seq;
    const tall_isa *tall;
    void (*gated)(const gated_job *job, ptrdiff_t from, ptrdiff_t to);
    void (*norm_rows)(const norm_job *job, ptrdiff_t from, ptrdiff_t to);
    void (*rotate_rows)(const rotary_job *job, ptrdiff_t from, ptrdiff_t to);
    void (*argmax_rows)(const argmax_job *job, ptrdiff_t from, ptrdiff_t to);
    void (*attend)(const dflash_attention *job, const attend_row *row, int kv, int from, int count);
    int (*choose)(const choice_job *job);
    void (*convolve_rows)(const dflash_convolution *job, ptrdiff_t from, ptrdiff_t to);
    void (*top_rows)(const top_job *job, ptrdiff_t from, ptrdiff_t to);
    void (*walk_rows)(const dflash_walk *job, ptrdiff_t from, ptrdiff_t to);
    void (*unpack_rows)(const dflash_quantised *w, ptrdiff_t row, int count, float *out,
                        ptrdiff_t ldo);
    void (*swiglu_grad)(const swiglu_grad_job *job, ptrdiff_t from, ptrdiff_t to);
    void (*norm_rows_grad)(const norm_grad_job *job, ptrdiff_t from, ptrdiff_t to,
                           float *to_weight);
    void (*rotate_rows_grad)(const rotary_grad_job *job, ptrdiff_t from, ptrdiff_t to,
                             float *to_weight);
    void (*convolve_rows_grad)(const convolve_grad_job *job, ptrdiff_t from, ptrdiff_t to,
                               float *to_base);
    void (*entropy_rows)(const entropy_job *job, ptrdiff_t from, ptrdiff_t to);
    void (*entropy_rows_grad)(const entropy_grad_job *job, ptrdiff_t from, ptrdiff_t to);
    void (*adamw)(const dflash_adamw *job, ptrdiff_t from, ptrdiff_t to);
    void (*square_sums)(const squares_job *job, ptrdiff_t from, ptrdiff_t to);
    void (*attend_blocks)(const dflash_blocks *job, int sequence, int kv);
    void (*attend_blocks_grad)(const dflash_blocks *job, int sequence, int kv);
} blas_isa;

extern const blas_isa isa_avx512, isa_avx2, isa_neon, isa_generic;

const blas_isa *isa_in_use(void);
int threads_in_use(void);

typedef enum {
    SCRATCH_MATMUL,
    SCRATCH_PACKED,
    SCRATCH_ATTENTION,
    SCRATCH_CHOICE,
    SCRATCH_PANEL,
    SCRATCH_GRADIENT,
    SCRATCH_BLOCKS,
    SCRATCH_USES
} scratch_use;

/* A 64-byte aligned buffer of this thread, valid until its next call for the same use. */
float *scratch_for(scratch_use use, size_t count);

/* That of a matmul. */
float *scratch_floats(size_t count);

/* The product by packed tiles, cut into about so many parts for the pool; 1: on this thread. */
void tall_gemm(const tall_isa *isa, const gemm_job *job, int lanes, int parts);

void cblas_sgemm(int order, int ta, int tb, int M, int N, int K, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc);

/* x W^T on this thread alone, the way that is faster for its shape. */
void dot_alone(const gemm_job *job);

/* Runs part(context, 0..parts-1) on this thread and on workers that are free, and returns when all
 * are done. Any thread may call it, also inside a part. */
void pool_run(int parts, void (*part)(void *context, int index), void *context);

/* The one rounding of the epilogue; beta == 0 must not read C, which may hold NaN. */
INLINE float blend(float sum, float alpha, float beta, const float *c) {
    return beta == 0.0f ? alpha * sum : alpha * sum + beta * *c;
}

INLINE int least(int a, int b) { return a < b ? a : b; }

INLINE ptrdiff_t round_up(ptrdiff_t value, ptrdiff_t step) {
    return (value + step - 1) / step * step;
}

/* Floats of one lane, and of a whole packed block. The extra line keeps lanes, written in turns,
 * out of one set of the first-level cache. */
INLINE ptrdiff_t tall_lane(int depth, int width) { return round_up(depth, 16) / 16 * width + 16; }
INLINE ptrdiff_t tall_block(int depth, int width) { return 16 * tall_lane(depth, width); }

/* Splits `rows` into tiles of at most `most` rows that differ by one row at the most. */
INLINE int tile_count(int rows, int most) { return (rows + most - 1) / most; }
INLINE int tile_start(int rows, int tiles, int index) {
    return (int)((long long)rows * index / tiles);
}

#endif
