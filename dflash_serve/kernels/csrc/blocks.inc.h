/* Attention of training, several blocks at a time: rows of a chunk are [blocks, group, B], columns
 * a block's own and from `before` on its context's keys [low, high). Both begin at multiples of
 * sixteen, so that a row's sums do not depend on the other blocks of its chunk. Included once per
 * instruction set, after grads.inc.h. */

#define CHUNK_ROWS 96

typedef struct {
    const dflash_blocks *job;
    int sequence, kv, group, block, dim, length;
    int before;
    ptrdiff_t ld; /* of scores */
    float *turned_keys, *turned_values; /* [dim, T] */
    float *queries, *to_out, *out;      /* [rows, dim] */
    float *scores, *to_scores;          /* [rows, ld] */
    int first, count, rows, low, high;  /* of the chunk */
} block_chunk;

/* The matrix [columns, dim] of one head. */
ISA_FN INLINE const float *head_of(const dflash_heads *x, int batch, int head) {
    return x->x + batch * x->strides[0] + head * x->strides[1];
}

ISA_FN static void turn_head(const dflash_heads *x, int batch, int head, float *out) {
    const float *from = head_of(x, batch, head);
    for (int t = 0; t < x->columns; t++)
        for (int l = 0; l < x->dim; l++) out[(ptrdiff_t)l * x->columns + t] = from[t * x->strides[2] + l];
}

ISA_FN static block_chunk chunks_of(const dflash_blocks *job, int sequence, int kv) {
    block_chunk c = {.job = job, .sequence = sequence, .kv = kv, .block = job->queries.columns,
                     .group = job->queries.heads / job->keys.heads, .dim = job->queries.dim,
                     .length = job->keys.columns};
    int each = c.group * c.block;
    ptrdiff_t rows = each > CHUNK_ROWS ? each : CHUNK_ROWS, turned = (ptrdiff_t)c.dim * c.length;
    c.before = (int)round_up(c.block, 16);
    c.ld = c.before + round_up(c.length, 16);
    float *at = scratch_for(SCRATCH_BLOCKS, (size_t)(2 * turned + rows * (3 * c.dim + 2 * c.ld)));
    c.turned_keys = at;
    c.turned_values = at + turned;
    c.queries = at + 2 * turned;
    c.to_out = c.queries + rows * c.dim;
    c.out = c.to_out + rows * c.dim;
    c.scores = c.out + rows * c.dim;
    c.to_scores = c.scores + rows * c.ld;
    turn_head(&job->keys, sequence, kv, c.turned_keys);
    return c;
}

/* The next blocks whose rows fit, and the keys that any of their rows sees. */
ISA_FN static int next_chunk(block_chunk *c) {
    const dflash_blocks *job = c->job;
    int each = c->group * c->block, most = each > CHUNK_ROWS ? 1 : CHUNK_ROWS / each;
    c->first += c->count;
    c->count = least(job->blocks - c->first, most);
    c->rows = c->count * each;
    c->low = c->length;
    c->high = 0;
    for (int i = 0; i < c->count; i++) {
        int anchor = job->anchors[c->sequence * job->blocks + c->first + i];
        int low = job->window && anchor >= job->window ? anchor - job->window + 1 : 0;
        c->low = least(c->low, low);
        if (anchor > c->high) c->high = anchor;
    }
    c->high = least(c->high, c->length);
    c->low = least(c->low, c->high) / 16 * 16;
    return c->count > 0;
}

ISA_FN INLINE int batch_of(const block_chunk *c, int block) {
    return c->sequence * c->job->blocks + c->first + block;
}

/* Where row `row` of a chunk's block is in [S, N, B, heads, dim]. */
ISA_FN INLINE ptrdiff_t place_in_out(const block_chunk *c, int block, int row) {
    ptrdiff_t slot = (ptrdiff_t)batch_of(c, block) * c->block + row % c->block;
    return (slot * c->job->queries.heads + c->kv * c->group + row / c->block) * c->dim;
}

ISA_FN static void gather_queries(block_chunk *c) {
    const dflash_heads *q = &c->job->queries;
    float *to = c->queries;
    for (int i = 0; i < c->count; i++)
        for (int row = 0; row < c->group * c->block; row++, to += c->dim) {
            const float *from = head_of(q, batch_of(c, i), c->kv * c->group + row / c->block) +
                                row % c->block * q->strides[2];
            for (int l = 0; l < c->dim; l++) to[l] = from[l] * c->job->scale;
        }
}

/* x [rows, dim] over a chunk's columns: context (turned) and, block by block, own rows. */
ISA_FN static void over_columns(const block_chunk *c, const float *x, const float *turned,
                                const dflash_heads *own, float *out) {
    int wide = c->high - c->low, each = c->group * c->block;
    gemm_job context = {.M = c->rows, .N = wide, .K = c->dim, .a = x, .a_row = c->dim, .a_col = 1,
                        .b = turned + c->low, .ldb = c->length, .c = out + c->before, .ldc = c->ld,
                        .alpha = 1.0f, .beta = 0.0f};
    if (wide > 0) seq_gemm(&context);
    for (int i = 0; i < c->count; i++) {
        gemm_job inside = {.M = each, .N = c->block, .K = c->dim,
                           .a = x + (ptrdiff_t)i * each * c->dim, .a_row = c->dim, .a_col = 1,
                           .b = head_of(own, batch_of(c, i), c->kv), .ldb = own->strides[2],
                           .c = out + i * each * c->ld, .ldc = c->ld,
                           .alpha = 1.0f, .beta = 0.0f};
        dot_gemm(&inside);
    }
    for (int row = 0; row < c->rows; row++)
        for (int l = c->block; l < c->before; l++) out[row * c->ld + l] = 0.0f;
}

/* The other way: out [rows, dim] = x [rows, columns] times the columns' keys or values. */
ISA_FN static void over_dim(const block_chunk *c, const float *x, const dflash_heads *context,
                            const dflash_heads *own, float *out) {
    int wide = c->high - c->low, each = c->group * c->block;
    const float *from = head_of(context, c->sequence, c->kv) + c->low * context->strides[2];
    gemm_job before = {.M = c->rows, .N = c->dim, .K = wide, .a = x + c->before, .a_row = c->ld,
                       .a_col = 1, .b = from, .ldb = context->strides[2], .c = out, .ldc = c->dim,
                       .alpha = 1.0f, .beta = 0.0f};
    if (wide > 0) seq_gemm(&before);
    else memset(out, 0, (size_t)c->rows * c->dim * sizeof(float));
    for (int i = 0; i < c->count; i++) {
        gemm_job inside = {.M = each, .N = c->dim, .K = c->block,
                           .a = x + i * each * c->ld, .a_row = c->ld, .a_col = 1,
                           .b = head_of(own, batch_of(c, i), c->kv), .ldb = own->strides[2],
                           .c = out + (ptrdiff_t)i * each * c->dim, .ldc = c->dim,
                           .alpha = 1.0f, .beta = 1.0f};
        seq_gemm(&inside);
    }
}

/* Gradients of keys or values: the transposed columns x [rows, columns] times y [rows, dim]. Those
 * of the context [S, kv, T, dim] add up, those of the blocks [S * N, B, kv, dim] are written. */
ISA_FN static void to_columns(const block_chunk *c, const float *x, const float *y, float *context,
                              float *own) {
    int wide = c->high - c->low, each = c->group * c->block, heads = c->job->keys.heads;
    ptrdiff_t head = (ptrdiff_t)c->sequence * heads + c->kv;
    gemm_job before = {.M = wide, .N = c->dim, .K = c->rows, .a = x + c->before, .a_row = 1,
                       .a_col = c->ld, .b = y, .ldb = c->dim, .c = context + (head * c->length + c->low) * c->dim,
                       .ldc = c->dim, .alpha = 1.0f, .beta = 1.0f};
    if (wide > 0) seq_gemm(&before);
    for (int i = 0; i < c->count; i++) {
        ptrdiff_t to = ((ptrdiff_t)batch_of(c, i) * c->block * heads + c->kv) * c->dim;
        gemm_job inside = {.M = c->block, .N = c->dim, .K = each,
                           .a = x + i * each * c->ld, .a_row = 1, .a_col = c->ld,
                           .b = y + (ptrdiff_t)i * each * c->dim, .ldb = c->dim, .c = own + to,
                           .ldc = (ptrdiff_t)heads * c->dim, .alpha = 1.0f, .beta = 0.0f};
        seq_gemm(&inside);
    }
}

/* Hides what a row does not see. */
ISA_FN static void mask_row(const block_chunk *c, int block, int row, float *s) {
    const dflash_blocks *job = c->job;
    int anchor = job->anchors[batch_of(c, block)], slot = row % c->block, wide = c->high - c->low;
    int from = job->window ? anchor + slot - job->window + 1 - c->low : 0;
    int to = least(anchor, c->high) - c->low, own = job->window ? slot - job->window + 1 : 0;
    float *context = s + c->before;
    if (from > 0) hide(context, 0, least(from, wide));
    hide(context, to < 0 ? 0 : to, wide);
    if (own > 0) hide(s, 0, own);
    hide(s, job->causal ? slot + 1 : c->block, c->before);
}

/* Scores of the chunk, those that nobody sees at minus infinity. */
ISA_FN static void score(block_chunk *c) {
    gather_queries(c);
    over_columns(c, c->queries, c->turned_keys, &c->job->own_keys, c->scores);
    int each = c->group * c->block;
    for (int row = 0; row < c->rows; row++)
        mask_row(c, row / each, row % each, c->scores + row * c->ld);
}

ISA_FN INLINE float *log_sum_of(const block_chunk *c, int block, int row) {
    ptrdiff_t head = (ptrdiff_t)batch_of(c, block) * c->job->queries.heads + c->kv * c->group;
    return c->job->log_sums + head * c->block + row;
}

ISA_FN static void attend_blocks(const dflash_blocks *job, int sequence, int kv) {
    block_chunk c = chunks_of(job, sequence, kv);
    int each = c.group * c.block;
    float *sums = c.to_out;
    while (next_chunk(&c)) {
        int columns = c.before + c.high - c.low;
        score(&c);
        for (int row = 0; row < c.rows; row++) {
            float *s = c.scores + row * c.ld, most = greatest(s, columns, HIDDEN);
            sums[row] = exponentials(s, columns, most);
            *log_sum_of(&c, row / each, row % each) = most + logf(sums[row]);
        }
        over_dim(&c, c.scores, &job->values, &job->own_values, c.out);
        for (int row = 0; row < c.rows; row++) {
            float *to = job->out + place_in_out(&c, row / each, row % each), by = 1.0f / sums[row];
            for (int l = 0; l < c.dim; l++) to[l] = c.out[(ptrdiff_t)row * c.dim + l] * by;
        }
    }
}

/* to_s = p (to_p - sum(p to_p)), over to_p. */
ISA_FN static void softmax_grad(const float *p, float *to_p, int count) {
    v16 product = v_zero();
    for (int i = 0; i < count; i += 16) {
        int some = least(count - i, 16);
        product = v_fma(some_load(p + i, some), some_load(to_p + i, some), product);
    }
    v16 back = v_set1(-v_total(product));
    for (int i = 0; i < count; i += 16) {
        int some = least(count - i, 16);
        v16 value = v_add(some_load(to_p + i, some), back);
        some_store(to_p + i, v_mul(some_load(p + i, some), value), some);
    }
}

/* The gradients of one sequence's queries, keys and values of one key head. */
ISA_FN static void attend_blocks_grad(const dflash_blocks *job, int sequence, int kv) {
    block_chunk c = chunks_of(job, sequence, kv);
    int each = c.group * c.block;
    ptrdiff_t head = ((ptrdiff_t)sequence * job->keys.heads + kv) * c.length * c.dim;
    size_t bytes = (size_t)c.length * c.dim * sizeof(float);
    turn_head(&job->values, sequence, kv, c.turned_values);
    memset(job->to_keys + head, 0, bytes);
    memset(job->to_values + head, 0, bytes);
    while (next_chunk(&c)) {
        int columns = c.before + c.high - c.low;
        score(&c);
        for (int row = 0; row < c.rows; row++)
            memcpy(c.to_out + (ptrdiff_t)row * c.dim,
                   job->to_out + place_in_out(&c, row / each, row % each),
                   (size_t)c.dim * sizeof(float));
        over_columns(&c, c.to_out, c.turned_values, &job->own_values, c.to_scores);
        for (int row = 0; row < c.rows; row++) {
            float *shares = c.scores + row * c.ld;
            exponentials(shares, columns, *log_sum_of(&c, row / each, row % each));
            softmax_grad(shares, c.to_scores + row * c.ld, columns);
        }
        to_columns(&c, c.scores, c.to_out, job->to_values, job->to_own_values);
        to_columns(&c, c.to_scores, c.queries, job->to_keys, job->to_own_keys);
        over_dim(&c, c.to_scores, &job->keys, &job->own_keys, c.out);
        for (int row = 0; row < c.rows; row++) {
            float *to = job->to_queries + place_in_out(&c, row / each, row % each);
            for (int l = 0; l < c.dim; l++)
                to[l] = c.out[(ptrdiff_t)row * c.dim + l] * job->scale;
        }
    }
}
