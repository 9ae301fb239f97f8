/* What DFlash 2 adds to a block's rows and to the choice of its tokens. Included once per
 * instruction set, after choice. */

ISA_FN INLINE void store_lanes(float *to, vec x, int count) {
    if (count == LANES) vec_store(to, x);
    else vec_store_some(to, x, count);
}

/* out = sum over taps t of (base[t] + own[t]) * x[row - t], of up to LANES channels of one group.
 * Products are rounded before the sum, as in MLX. */
ISA_FN INLINE vec convolve_some(const dflash_convolution *job, const float *x, const float *own,
                                int taps, int channel, int count) {
    vec sum = vec_set1(-0.0f); /* which adds nothing, also to -0 */
    for (int tap = 0; tap < taps; tap++) {
        const float *base = job->base + (ptrdiff_t)tap * job->hidden + channel;
        const float *from = x - (ptrdiff_t)tap * job->hidden + channel;
        vec kernel =
            vec_add(tall_load(base, count), vec_set1(own[(ptrdiff_t)tap * job->groups]));
        sum = vec_add(sum, vec_mul(kernel, tall_load(from, count)));
    }
    return sum;
}

ISA_FN static void convolve_rows(const dflash_convolution *job, ptrdiff_t from, ptrdiff_t to) {
    int size = job->hidden / job->groups;
    for (ptrdiff_t row = from; row < to; row++) {
        int taps = least(job->taps, (int)(row % job->columns) + 1);
        const float *x = job->x + row * job->hidden;
        const float *own = job->own + row * job->own_stride;
        float *out = job->out + row * job->hidden;
        for (int group = 0; group < job->groups; group++, own++)
            for (int k = 0; k < size; k += LANES) {
                int channel = group * size + k, count = least(LANES, size - k);
                vec sum = convolve_some(job, x, own, taps, channel, count);
                store_lanes(out + channel, sum, count);
            }
    }
}

/* One tap and group of a row: adds to `to_base` [hidden] and to the gradient of the row's numbers,
 * which tap 0 begins. The gradient of its own kernel. */
ISA_FN INLINE float convolve_tap_grad(const convolve_grad_job *job, ptrdiff_t row, int group,
                                      int tap, float *to_base) {
    const dflash_convolution *c = &job->of;
    int column = (int)(row % c->columns), size = c->hidden / c->groups;
    ptrdiff_t at = row * c->hidden, away = (ptrdiff_t)tap * c->hidden;
    vec own = vec_set1(0), total = vec_set1(0);
    int ahead = column + tap < c->columns;
    if (ahead) own = vec_set1(c->own[(row + tap) * c->own_stride + tap * c->groups + group]);
    for (int k = group * size; k < (group + 1) * size; k += LANES) {
        int count = least(LANES, (group + 1) * size - k);
        if (tap <= column) {
            vec part = vec_mul(tall_load(job->to_out + at + k, count),
                               tall_load(c->x + at - away + k, count));
            total = vec_add(total, part);
            store_lanes(to_base + k, vec_add(tall_load(to_base + k, count), part), count);
        }
        if (ahead) {
            vec kernel = vec_add(tall_load(c->base + away + k, count), own);
            vec part = vec_mul(kernel, tall_load(job->to_out + at + away + k, count));
            if (tap) part = vec_add(part, tall_load(job->to_x + at + k, count));
            store_lanes(job->to_x + at + k, part, count);
        }
    }
    v16 lanes = v_zero();
    lanes.part[0] = total;
    return v_total(lanes);
}

ISA_FN static void convolve_rows_grad(const convolve_grad_job *job, ptrdiff_t from, ptrdiff_t to,
                                      float *to_base) {
    const dflash_convolution *c = &job->of;
    for (ptrdiff_t row = from; row < to; row++)
        for (int tap = 0; tap < c->taps; tap++)
            for (int group = 0; group < c->groups; group++)
                job->to_own[row * c->own_stride + tap * c->groups + group] =
                    convolve_tap_grad(job, row, group, tap, to_base + (ptrdiff_t)tap * c->hidden);
}

/* Puts a number among descending ones, of which the one at `last` is lost. */
static inline void place(float *values, int *ids, int last, float value, int id) {
    for (; last > 0 && values[last - 1] < value; last--)
        values[last] = values[last - 1], ids[last] = ids[last - 1];
    values[last] = value, ids[last] = id;
}

#define TOP_VECTORS 8 /* whose greatest numbers are compared with the least kept one at once */

ISA_FN static void top_of(const float *x, int width, int count, float *values, int *ids) {
    const int step = TOP_VECTORS * LANES;
    int k = 0;
    for (; k < count; k++) place(values, ids, k, x[k] == x[k] ? x[k] : LOWEST, k);
    while (k < width) {
        int end = least(k + step, width);
        if (end - k == step) {
            vec most = vec_load(x + k);
            UNROLL for (int i = 1; i < TOP_VECTORS; i++) {
                vec value = vec_load(x + k + i * LANES);
                most = vec_select((vec_int)(value > most) | (vec_int)(most != most), value, most);
            }
            if (!vec_any((vec_int)(most > vec_set1(values[count - 1])))) k = end;
        }
        for (; k < end; k++)
            if (x[k] > values[count - 1]) place(values, ids, count - 1, x[k], k);
    }
}

ISA_FN static void top_rows(const top_job *job, ptrdiff_t from, ptrdiff_t to) {
    for (ptrdiff_t row = from; row < to; row++)
        top_of(job->x + row * job->width, job->width, job->count, job->values + row * job->count,
               job->ids + row * job->count);
}

/* unary + (gate * before) . after */
ISA_FN INLINE float rescored(const float *gate, const float *before, const float *after, int rank,
                             float unary) {
    v16 total = v_zero();
    for (int k = 0; k < rank; k += 16) {
        int count = least(16, rank - k);
        v16 g = v_load_some(gate + k, count), b = v_load_some(before + k, count);
        total = v_fma(v_mul(g, b), v_load_some(after + k, count), total);
    }
    return unary + v_total(total);
}

ISA_FN static void walk_rows(const dflash_walk *job, ptrdiff_t from, ptrdiff_t to) {
    int count = job->count, rank = job->rank;
    for (ptrdiff_t row = from; row < to; row++) {
        int token = job->anchors[row];
        for (int column = 0; column < job->columns; column++) {
            ptrdiff_t at = row * job->columns + column;
            const float *before = job->predecessors + (ptrdiff_t)token * rank;
            const int *ids = job->ids + at * count;
            float *scores = job->scores + at * count;
            int best = 0;
            for (int c = 0; c < count; c++) {
                scores[c] = rescored(job->gates + at * rank, before,
                                     job->successors + (ptrdiff_t)ids[c] * rank, rank,
                                     job->unary[at * count + c]);
                if (scores[c] > scores[best]) best = c;
            }
            token = job->tokens[at] = ids[best];
        }
    }
}
