/* x W^T: lane l of an output's accumulator sums the products with k mod 16 == l, in the order of k;
 * one fixed tree adds the 16 lanes. Nothing in that order depends on M, N, tiles or blocks.
 * Included once per instruction set, which defines DOT_MR (3 or 6) and v_reduce, the tree:
 * s[l] = x[l] + x[l+8]; p[j] = s[2j] + s[2j+1]; (p[0] + p[1]) + (p[2] + p[3]). */

#define DOT_NR 4
#define DOT_KC 512 /* k per block: four rows of W and a tile of x stay in the first-level cache */
#define DOT_PACK_FLOATS (96 * 1024) /* packed rows of x that stay in the second-level cache */

typedef struct {
    const float *a; /* packed: [steps][mr][16], zero-padded in k */
    const float *w;
    ptrdiff_t ldw;
    ptrdiff_t ahead; /* from w to what is read after this block, which is fetched meanwhile */
    int steps, tail; /* whole groups of 16 in k, then `tail` single ones */
    float *part;     /* lane sums between K blocks: a stored float32 is the same float32 */
    int first, last;
    float *c;
    ptrdiff_t ldc;
    float alpha, beta;
} dot_call;

ISA_FN INLINE void dot_step(int mr, int nr, vec *sum, const float *a, const vec *column) {
    UNROLL for (int r = 0; r < mr; r++) {
        vec row = vec_load(a + 16 * r);
        UNROLL for (int s = 0; s < nr; s++)
            sum[r * DOT_NR + s] = vec_fma(row, column[s], sum[r * DOT_NR + s]);
    }
}

/* The lanes of one part over all of k: the sums of a whole tile then fit the registers. */
ISA_FN INLINE void dot_part(int mr, int nr, const dot_call *t, int part, v16 *acc) {
    vec sum[DOT_MR * DOT_NR], column[DOT_NR];
    const float *a = t->a + LANES * part, *w = t->w + LANES * part;
    UNROLL for (int r = 0; r < mr; r++)
        UNROLL for (int s = 0; s < nr; s++) {
            int i = r * DOT_NR + s;
            sum[i] = t->first ? vec_set1(0.0f) : vec_load(t->part + 16 * i + LANES * part);
        }
    for (int step = 0; step < t->steps; step++, a += 16 * mr, w += 16) {
        UNROLL for (int s = 0; s < nr; s++) column[s] = vec_load(w + s * t->ldw);
        if (part == 0)
            UNROLL for (int s = 0; s < nr; s++) __builtin_prefetch(w + s * t->ldw + t->ahead);
        dot_step(mr, nr, sum, a, column);
    }
    if (t->tail) {
        int count = lanes_in_part(t->tail, part);
        UNROLL for (int s = 0; s < nr; s++) column[s] = vec_load_some(w + s * t->ldw, count);
        dot_step(mr, nr, sum, a, column);
    }
    UNROLL for (int r = 0; r < mr; r++)
        UNROLL for (int s = 0; s < nr; s++) acc[r * DOT_NR + s].part[part] = sum[r * DOT_NR + s];
}

ISA_FN INLINE void dot_finish(int mr, int nr, const v16 *acc, const dot_call *t) {
    UNROLL for (int r = 0; r < mr; r++) {
        float sums[DOT_NR];
        v_reduce(acc + r * DOT_NR, sums, nr);
        float *c = t->c + r * t->ldc;
        UNROLL for (int s = 0; s < nr; s++) c[s] = blend(sums[s], t->alpha, t->beta, c + s);
    }
}

ISA_FN INLINE void dot_tile(int mr, int nr, const dot_call *t) {
    v16 acc[DOT_MR * DOT_NR];
    for (int part = 0; part < PARTS; part++) dot_part(mr, nr, t, part, acc);
    if (t->last) {
        dot_finish(mr, nr, acc, t);
        return;
    }
    UNROLL for (int r = 0; r < mr; r++)
        UNROLL for (int s = 0; s < nr; s++)
            v_store(t->part + 16 * (r * DOT_NR + s), acc[r * DOT_NR + s]);
}

#define DOT_KERNEL(mr, nr) \
    ISA_FN static void dot_##mr##x##nr(const dot_call *t) { dot_tile(mr, nr, t); }
#define DOT_ROW(mr) DOT_KERNEL(mr, 1) DOT_KERNEL(mr, 2) DOT_KERNEL(mr, 3) DOT_KERNEL(mr, 4)
#define DOT_NAMES(mr) {dot_##mr##x1, dot_##mr##x2, dot_##mr##x3, dot_##mr##x4}
DOT_ROW(1)
DOT_ROW(2)
DOT_ROW(3)
#if DOT_MR > 3
DOT_ROW(4)
DOT_ROW(5)
DOT_ROW(6)
#endif

static void (*const dot_kernels[DOT_MR][DOT_NR])(const dot_call *) = {
    DOT_NAMES(1), DOT_NAMES(2), DOT_NAMES(3),
#if DOT_MR > 3
    DOT_NAMES(4), DOT_NAMES(5), DOT_NAMES(6),
#endif
};

/* Packs rows [0, mr) of A as [steps][mr][16]; the padding multiplies zeros of W. */
ISA_FN static void dot_pack(const gemm_job *job, int row, int mr, float *out) {
    for (int k = 0; k < job->K; k += 16)
        for (int r = 0; r < mr; r++, out += 16) {
            const float *a = job->a + (row + r) * job->a_row + k * job->a_col;
            int count = job->K - k < 16 ? job->K - k : 16;
            if (job->a_col == 1 && count == 16) {
                v_store(out, v_load(a));
                continue;
            }
            for (int l = 0; l < 16; l++) out[l] = l < count ? a[l * job->a_col] : 0.0f;
        }
}

/* From the last block of nr rows of W, which begins at k, to what is read then. Processors foresee
 * long rows alone; one row of A goes through W so fast that the next rows would come too late. */
static ptrdiff_t dot_ahead(const gemm_job *job, int tiles, int nr, int k) {
    if (tiles == 1 && job->K > 1024) return 0;
    return job->M == 1 ? 1536 : nr * job->ldb - k;
}

/* All tiles of rows [row, row + rows) against columns [n, n + nr). */
ISA_FN static void dot_columns(const gemm_job *job, int row, int rows, int n, int nr,
                               const float *packed, float *parts) {
    int tiles = tile_count(rows, DOT_MR), kpad = (int)round_up(job->K, 16);
    int block = tiles > 1 || PARTS > 1 ? DOT_KC : kpad;
    for (int k = 0; k < job->K; k += block) {
        int left = job->K - k, count = left < block ? left : block;
        dot_call t = {.w = job->b + n * job->ldb + k, .ldw = job->ldb, .ldc = job->ldc,
                      .steps = count / 16, .tail = count % 16, .first = k == 0,
                      .last = left <= block, .alpha = job->alpha, .beta = job->beta};
        t.ahead = left > block ? block : dot_ahead(job, tiles, nr, k);
        for (int i = 0; i < tiles; i++) {
            int top = tile_start(rows, tiles, i), mr = tile_start(rows, tiles, i + 1) - top;
            if (i == 1) t.ahead = 0; /* the first tile fetched it */
            t.a = packed + (ptrdiff_t)top * kpad + (ptrdiff_t)k * mr;
            t.part = parts + 16 * DOT_MR * DOT_NR * (ptrdiff_t)i;
            t.c = job->c + (row + top) * job->ldc + n;
            dot_kernels[mr - 1][nr - 1](&t);
        }
    }
}

ISA_FN static void dot_gemm(const gemm_job *job) {
    int kpad = (int)round_up(job->K, 16);
    int most = DOT_PACK_FLOATS / kpad < DOT_MR ? DOT_MR : DOT_PACK_FLOATS / kpad;
    int block = job->M < most ? job->M : most;
    size_t packed_floats = (size_t)block * kpad;
    size_t part_floats = 16u * DOT_MR * DOT_NR * (size_t)tile_count(block, DOT_MR);
    float *packed = scratch_floats(packed_floats + part_floats);
    for (int row = 0; row < job->M; row += block) {
        int rows = job->M - row < block ? job->M - row : block;
        int tiles = tile_count(rows, DOT_MR);
        for (int i = 0; i < tiles; i++) {
            int top = tile_start(rows, tiles, i), mr = tile_start(rows, tiles, i + 1) - top;
            dot_pack(job, row + top, mr, packed + (ptrdiff_t)top * kpad);
        }
        for (int n = 0; n < job->N; n += DOT_NR) {
            int nr = job->N - n < DOT_NR ? job->N - n : DOT_NR;
            dot_columns(job, row, rows, n, nr, packed, packed + packed_floats);
        }
    }
}
