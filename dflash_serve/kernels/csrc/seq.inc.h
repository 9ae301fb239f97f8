/* A B with rows of B contiguous: every output sums its products one by one in the order of k, lanes
 * are columns. So zeros behind the end of a row of A (masked keys) change nothing.
 * Included once per instruction set, which defines SEQ_MR and SEQ_NV(mr). */

#include <string.h>

#define SEQ_KC 256 /* k per block: a packed panel of B stays in the second-level cache */
#define SEQ_ROWS 96 /* per block: their running sums stay in the second-level cache */
#define SEQ_PACKED_TILES 4 /* fewer tiles of rows do not repay packing B */
#define SEQ_ROWS_OF_B 4 /* read at a time by a single row of A, as they lie */
#define SEQ_LONG_ROW 256 /* between rows of B: below, registers keep the sums for all of k */
#define SEQ_MAX_NV 4

typedef struct {
    const float *a;
    ptrdiff_t a_row, a_col;
    const float *b;
    ptrdiff_t ldb;
    int depth;
    float *part; /* running sums between K blocks: a stored float32 is the same float32 */
    int first, last;
    float *c;
    ptrdiff_t ldc;
    int columns;
    float alpha, beta;
} seq_call;

ISA_FN INLINE void seq_finish(int mr, int nv, const v16 *acc, const seq_call *t) {
    UNROLL for (int r = 0; r < mr; r++) {
        UNROLL for (int v = 0; v < nv; v++) {
            float *c = t->c + r * t->ldc + 16 * v;
            int count = t->columns - 16 * v;
            v16 sum = v_mul(v_set1(t->alpha), acc[r * nv + v]);
            if (t->beta != 0.0f) {
                v16 old = count < 16 ? v_load_some(c, count) : v_load(c);
                sum = v_add(sum, v_mul(v_set1(t->beta), old));
            }
            if (count < 16) v_store_some(c, sum, count);
            else v_store(c, sum);
        }
    }
}

ISA_FN INLINE void seq_tile(int mr, int nv, const seq_call *t) {
    v16 acc[SEQ_MR * SEQ_MAX_NV];
    const float *a = t->a, *b = t->b;
    UNROLL for (int i = 0; i < mr * nv; i++)
        acc[i] = t->first ? v_zero() : v_load(t->part + 16 * i);
    for (int k = 0; k < t->depth; k++, a += t->a_col, b += t->ldb) {
        v16 row[SEQ_MAX_NV];
        UNROLL for (int v = 0; v < nv; v++) row[v] = v_load(b + 16 * v);
        UNROLL for (int r = 0; r < mr; r++) {
            v16 left = v_set1(a[r * t->a_row]);
            UNROLL for (int v = 0; v < nv; v++)
                acc[r * nv + v] = v_fma(left, row[v], acc[r * nv + v]);
        }
    }
    if (t->last) {
        seq_finish(mr, nv, acc, t);
        return;
    }
    UNROLL for (int i = 0; i < mr * nv; i++) v_store(t->part + 16 * i, acc[i]);
}

#define SEQ_KERNEL(mr, nv) \
    ISA_FN static void seq_##mr##x##nv(const seq_call *t) { seq_tile(mr, nv, t); }
#define SEQ_ROW(mr) SEQ_KERNEL(mr, 1) SEQ_KERNEL(mr, 2) SEQ_KERNEL(mr, 3) SEQ_KERNEL(mr, 4)
#define SEQ_NAMES(mr) {seq_##mr##x1, seq_##mr##x2, seq_##mr##x3, seq_##mr##x4}
SEQ_ROW(1)
SEQ_ROW(2)
#if SEQ_MR > 2
SEQ_ROW(3)
SEQ_ROW(4)
SEQ_ROW(5)
SEQ_ROW(6)
#endif

static void (*const seq_kernels[SEQ_MR][SEQ_MAX_NV])(const seq_call *) = {
    SEQ_NAMES(1), SEQ_NAMES(2),
#if SEQ_MR > 2
    SEQ_NAMES(3), SEQ_NAMES(4), SEQ_NAMES(5), SEQ_NAMES(6),
#endif
};

/* Packs B[k : k + depth, n : n + columns] as [depth][width], zero-padded to whole vectors. */
ISA_FN static void seq_pack_panel(const gemm_job *job, int k, int depth, int n, int columns,
                                  float *out) {
    int whole = columns / 16 * 16, rest = columns - whole;
    for (int d = 0; d < depth; d++) {
        const float *b = job->b + (k + d) * job->ldb + n;
        for (int v = 0; v < whole; v += 16, out += 16) v_store(out, v_load(b + v));
        if (rest) {
            v_store(out, v_load_some(b + whole, rest));
            out += 16;
        }
    }
}

typedef struct {
    const gemm_job *job;
    int row, rows, tiles;
    float *panel, *parts;
} seq_block;

/* All row tiles of a block against columns [n, n + columns) for k in [k, k + depth). */
ISA_FN static void seq_piece(const seq_block *block, int n, int columns, int k, int depth) {
    const gemm_job *job = block->job;
    int nv = (columns + 15) / 16;
    seq_call t = {.b = job->b + k * job->ldb + n, .ldb = job->ldb, .depth = depth,
                  .first = k == 0, .last = k + depth == job->K, .ldc = job->ldc,
                  .columns = columns, .alpha = job->alpha, .beta = job->beta,
                  .a_row = job->a_row, .a_col = job->a_col};
    if (columns % 16 != 0 || block->tiles >= SEQ_PACKED_TILES) {
        seq_pack_panel(job, k, depth, n, columns, block->panel);
        t.b = block->panel;
        t.ldb = 16 * nv;
    }
    for (int i = 0; i < block->tiles; i++) {
        int top = tile_start(block->rows, block->tiles, i);
        int mr = tile_start(block->rows, block->tiles, i + 1) - top;
        t.a = job->a + (block->row + top) * job->a_row + k * job->a_col;
        t.part = block->parts + SEQ_MR * 16 * SEQ_MAX_NV * i;
        t.c = job->c + (block->row + top) * job->ldc + n;
        seq_kernels[mr - 1][nv - 1](&t);
    }
}

ISA_FN static void seq_rows(const seq_block *block) {
    int N = block->job->N, K = block->job->K;
    int width = 16 * SEQ_NV(tile_start(block->rows, block->tiles, 1));
    for (int n = 0; n < N; n += width)
        for (int k = 0; k < K; k += SEQ_KC)
            seq_piece(block, n, least(N - n, width), k, least(K - k, SEQ_KC));
}

/* sums += the products of `depth` rows of B from k on, for columns [n, n + 16) or fewer. */
ISA_FN INLINE void seq_add_rows(int depth, const v16 *a, const float *b, ptrdiff_t ldb, int count,
                                float *sums) {
    v16 sum = v_load(sums);
    UNROLL for (int j = 0; j < depth; j++) {
        v16 row = count < 16 ? v_load_some(b + j * ldb, count) : v_load(b + j * ldb);
        sum = v_fma(a[j], row, sum);
    }
    v_store(sums, sum);
}

ISA_FN static void seq_one_row(const gemm_job *job) {
    int padded = (int)round_up(job->N, 16), whole = job->N / 16 * 16;
    float *sums = scratch_floats((size_t)padded);
    memset(sums, 0, (size_t)padded * sizeof(float));
    for (int k = 0; k < job->K; k += SEQ_ROWS_OF_B) {
        int depth = least(job->K - k, SEQ_ROWS_OF_B), full = depth == SEQ_ROWS_OF_B;
        const float *b = job->b + k * job->ldb;
        v16 a[SEQ_ROWS_OF_B];
        for (int j = 0; j < depth; j++) a[j] = v_set1(job->a[(k + j) * job->a_col]);
        for (int n = 0; n < whole && full; n += 16)
            seq_add_rows(SEQ_ROWS_OF_B, a, b + n, job->ldb, 16, sums + n);
        for (int n = full ? whole : 0; n < job->N; n += 16)
            seq_add_rows(depth, a, b + n, job->ldb, least(job->N - n, 16), sums + n);
    }
    seq_call t = {.c = job->c, .alpha = job->alpha, .beta = job->beta};
    for (int n = 0; n < job->N; n += 16, t.c += 16) {
        v16 sum = v_load(sums + n);
        t.columns = job->N - n;
        seq_finish(1, 1, &sum, &t);
    }
}

ISA_FN static void seq_gemm(const gemm_job *job) {
    if (job->M == 1 && job->ldb >= SEQ_LONG_ROW) {
        seq_one_row(job);
        return;
    }
    int step = least(job->M, SEQ_ROWS), tiles = tile_count(step, SEQ_MR);
    size_t panel_floats = 16u * SEQ_MAX_NV * SEQ_KC;
    size_t part_floats = 16u * SEQ_MR * SEQ_MAX_NV * (size_t)tiles;
    float *panel = scratch_floats(panel_floats + part_floats);
    for (int row = 0; row < job->M; row += step) {
        int rows = least(job->M - row, step);
        seq_block block = {.job = job, .row = row, .rows = rows, .panel = panel,
                           .tiles = tile_count(rows, SEQ_MR), .parts = panel + panel_floats};
        seq_rows(&block);
    }
}
