/* Many rows: A and B are packed, and one tile of C stays in the registers while k runs. The order of
 * an output's sums is that of dot.inc.h (`lanes` is 16: one sum over the k of each remainder modulo
 * 16, then the same tree) or of seq.inc.h (`lanes` is 1), so both forms give the same bits.
 * Included once per instruction set, which defines TALL_MR, TALL_NV and vec_transpose. */

#define TALL_A_WIDTH ((TALL_MR + LANES - 1) / LANES * LANES)
#define TALL_COLUMNS (TALL_NV * LANES)
#define TALL_SUMS (TALL_MR * TALL_NV)

/* Where a packed block of k puts k = 16 * group + l: at offset[l] + group * next. */
typedef struct {
    int width;
    ptrdiff_t offset[16], next;
} tall_layout;

/* The lanes follow one another so that neighbours are added first: 0, 8, 1, 9, ... 7, 15. */
ISA_FN static tall_layout tall_lay_out(int lanes, int depth, int width) {
    tall_layout out = {.width = width, .next = lanes == 1 ? 16 * width : width};
    for (int l = 0; l < 16; l++)
        out.offset[l] = lanes == 1 ? l * width : (2 * (l % 8) + l / 8) * tall_lane(depth, width);
    return out;
}

ISA_FN INLINE vec tall_load(const float *from, int inside) {
    return inside >= LANES ? vec_load(from) : inside > 0 ? vec_load_some(from, inside) : vec_set1(0);
}

/* Packs `count` vectors, contiguous in k and `ld` apart, side by side; zeros fill the rest. */
ISA_FN static void tall_pack_across(const float *from, ptrdiff_t ld, int count, int depth,
                                    const tall_layout *to, float *out) {
    for (int k = 0; k < round_up(depth, 16); k += LANES) {
        float *group = out + k / 16 * to->next;
        for (int first = 0; first < to->width; first += LANES) {
            vec x[LANES];
            UNROLL for (int i = 0; i < LANES; i++)
                x[i] = tall_load(from + (first + i) * ld + k, first + i < count ? depth - k : 0);
            vec_transpose(x);
            UNROLL for (int i = 0; i < LANES; i++)
                vec_store(group + to->offset[k % 16 + i] + first, x[i]);
        }
    }
}

/* Packs rows of `count` contiguous floats, one per k and `ld` apart; zeros fill the rest. */
ISA_FN static void tall_pack_along(const float *from, ptrdiff_t ld, int count, int depth,
                                   const tall_layout *to, float *out) {
    for (int k = 0; k < round_up(depth, 16); k++) {
        float *row = out + k / 16 * to->next + to->offset[k % 16];
        for (int first = 0; first < to->width; first += LANES)
            vec_store(row + first, tall_load(from + k * ld + first, k < depth ? count - first : 0));
    }
}

typedef struct {
    const float *a, *b; /* packed, [lanes][steps][width] */
    ptrdiff_t a_lane, b_lane;
    int lanes, steps;
    float *sums; /* of every lane between blocks of k: a stored float32 is the same float32 */
    int first, last;
    float *c;
    ptrdiff_t ldc;
    int columns;
    float alpha, beta;
} tall_call;

ISA_FN INLINE void tall_finish(int mr, const vec *sum, const tall_call *t) {
    vec alpha = vec_set1(t->alpha), beta = vec_set1(t->beta);
    UNROLL for (int r = 0; r < mr; r++) {
        UNROLL for (int v = 0; v < TALL_NV; v++) {
            float *c = t->c + r * t->ldc + LANES * v;
            int count = t->columns - LANES * v;
            if (count <= 0) continue;
            vec x = vec_mul(alpha, sum[r * TALL_NV + v]);
            if (t->beta != 0.0f) {
                vec old = count < LANES ? vec_load_some(c, count) : vec_load(c);
                x = vec_add(x, vec_mul(beta, old));
            }
            if (count < LANES) vec_store_some(c, x, count);
            else vec_store(c, x);
        }
    }
}

/* kept[level] is read after it was written, which the compiler does not see. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
ISA_FN INLINE void tall_tile(int mr, const tall_call *t) {
    vec sum[TALL_SUMS], kept[4][TALL_SUMS];
    UNROLL for (int r = 0; r < mr; r++)
        UNROLL for (int v = 0; v < TALL_COLUMNS; v += 16)
            __builtin_prefetch(t->c + r * t->ldc + v, 1);
    for (int lane = 0; lane < t->lanes; lane++) {
        const float *a = t->a + lane * t->a_lane, *b = t->b + lane * t->b_lane;
        float *sums = t->sums + lane * TALL_SUMS * LANES;
        UNROLL for (int i = 0; i < mr * TALL_NV; i++)
            sum[i] = t->first ? vec_set1(0.0f) : vec_load(sums + LANES * i);
        for (int s = 0; s < t->steps; s++, a += TALL_A_WIDTH, b += TALL_COLUMNS) {
            vec column[TALL_NV];
            UNROLL for (int v = 0; v < TALL_NV; v++) column[v] = vec_load(b + LANES * v);
            UNROLL for (int r = 0; r < mr; r++) {
                vec left = vec_set1(a[r]);
                UNROLL for (int v = 0; v < TALL_NV; v++)
                    sum[r * TALL_NV + v] = vec_fma(left, column[v], sum[r * TALL_NV + v]);
            }
        }
        if (!t->last) {
            UNROLL for (int i = 0; i < mr * TALL_NV; i++) vec_store(sums + LANES * i, sum[i]);
            continue;
        }
        int level = 0; /* the tree, as a binary counter of lanes */
        for (; lane >> level & 1; level++)
            UNROLL for (int i = 0; i < mr * TALL_NV; i++) sum[i] = vec_add(kept[level][i], sum[i]);
        if (lane + 1 < t->lanes)
            UNROLL for (int i = 0; i < mr * TALL_NV; i++) kept[level][i] = sum[i];
    }
    if (t->last) tall_finish(mr, sum, t);
}
#pragma GCC diagnostic pop

#define TALL_KERNEL(mr) \
    ISA_FN static void tall_##mr(const tall_call *t) { tall_tile(mr, t); }
TALL_KERNEL(1)
TALL_KERNEL(2)
TALL_KERNEL(3)
TALL_KERNEL(4)
#if TALL_MR > 4
TALL_KERNEL(5)
TALL_KERNEL(6)
#endif
#if TALL_MR > 6
TALL_KERNEL(7)
TALL_KERNEL(8)
TALL_KERNEL(9)
TALL_KERNEL(10)
TALL_KERNEL(11)
TALL_KERNEL(12)
#endif
#if TALL_MR > 12
TALL_KERNEL(13)
TALL_KERNEL(14)
#endif

static void (*const tall_kernels[TALL_MR])(const tall_call *) = {
    tall_1,  tall_2,  tall_3, tall_4,
#if TALL_MR > 4
    tall_5,  tall_6,
#endif
#if TALL_MR > 6
    tall_7,  tall_8,  tall_9, tall_10, tall_11, tall_12,
#endif
#if TALL_MR > 12
    tall_13, tall_14,
#endif
};

/* Packs one tile of A, every block of k. */
ISA_FN static void tall_pack(const tall_job *t, int tile) {
    const gemm_job *job = t->job;
    int top = tile_start(t->rows, t->tiles, tile);
    int mr = tile_start(t->rows, t->tiles, tile + 1) - top;
    const float *a = job->a + (t->row + top) * job->a_row;
    float *out = t->packed + (ptrdiff_t)tile * t->blocks * tall_block(t->depth, TALL_A_WIDTH);
    for (int k = 0; k < job->K; k += t->depth, out += tall_block(t->depth, TALL_A_WIDTH)) {
        int depth = job->K - k < t->depth ? job->K - k : t->depth;
        tall_layout layout = tall_lay_out(t->lanes, t->depth, TALL_A_WIDTH);
        if (job->a_col == 1)
            tall_pack_across(a + k, job->a_row, mr, depth, &layout, out);
        else tall_pack_along(a + k * job->a_col, job->a_col, mr, depth, &layout, out);
    }
}

/* Packs one block of k of a panel of B. */
ISA_FN static void tall_pack_b(const tall_job *t, int n, int k, int depth, float *out) {
    const gemm_job *job = t->job;
    int count = job->N - n < TALL_COLUMNS ? job->N - n : TALL_COLUMNS;
    tall_layout layout = tall_lay_out(t->lanes, t->depth, TALL_COLUMNS);
    if (t->lanes == 16)
        tall_pack_across(job->b + n * job->ldb + k, job->ldb, count, depth, &layout, out);
    else tall_pack_along(job->b + k * job->ldb + n, job->ldb, count, depth, &layout, out);
}

/* Tiles [from, to) of the block of rows against one panel of columns. */
ISA_FN static void tall_panel(const tall_job *t, int panel, int from, int to) {
    const gemm_job *job = t->job;
    ptrdiff_t b_floats = tall_block(t->depth, TALL_COLUMNS);
    ptrdiff_t sums = t->blocks > 1 ? t->lanes * TALL_SUMS * LANES : 0;
    float *b = scratch_floats((size_t)(b_floats + sums * (to - from)));
    int n = panel * TALL_COLUMNS;
    for (int block = 0; block < t->blocks; block++) {
        int k = block * t->depth, depth = job->K - k < t->depth ? job->K - k : t->depth;
        tall_pack_b(t, n, k, depth, b);
        tall_call call = {.b = b, .lanes = t->lanes, .first = block == 0,
                          .last = block + 1 == t->blocks, .ldc = job->ldc,
                          .columns = job->N - n, .alpha = job->alpha, .beta = job->beta,
                          .steps = t->lanes == 16 ? (depth + 15) / 16 : depth,
                          .a_lane = tall_lane(t->depth, TALL_A_WIDTH),
                          .b_lane = tall_lane(t->depth, TALL_COLUMNS)};
        for (int tile = from; tile < to; tile++) {
            int top = tile_start(t->rows, t->tiles, tile);
            int mr = tile_start(t->rows, t->tiles, tile + 1) - top;
            call.a = t->packed +
                     ((ptrdiff_t)tile * t->blocks + block) * tall_block(t->depth, TALL_A_WIDTH);
            call.sums = b + b_floats + sums * (tile - from);
            call.c = job->c + (t->row + top) * job->ldc + n;
            tall_kernels[mr - 1](&call);
        }
    }
}

static const tall_isa tall = {TALL_MR, TALL_COLUMNS, TALL_A_WIDTH, tall_pack, tall_panel};
