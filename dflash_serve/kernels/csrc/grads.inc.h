/* Gradients of the functions of rows, and what training computes besides. Their sums have no order
 * that anything relies on. Included once per instruction set, after attention.inc.h. */

ISA_FN INLINE v16 some_load(const float *from, int count) {
    return count < 16 ? v_load_some(from, count) : v_load(from);
}

ISA_FN INLINE void some_store(float *to, v16 x, int count) {
    if (count < 16) v_store_some(to, x, count);
    else v_store(to, x);
}

/* sigma = sigmoid(gate): to_up = to_out gate sigma, to_gate = to_out up sigma (1 + gate (1 - sigma)) */
ISA_FN static void swiglu_grad(const swiglu_grad_job *job, ptrdiff_t from, ptrdiff_t to) {
    vec one = vec_set1(1.0f);
    for (ptrdiff_t i = from; i < to; i += LANES) {
        int rest = (int)(to - i < LANES ? to - i : LANES);
        vec gate = tall_load(job->gate + i, rest), up = tall_load(job->up + i, rest);
        vec to_out = tall_load(job->to_out + i, rest), sigma = vec_sigmoid(gate);
        vec to_up = to_out * gate * sigma;
        vec to_gate = to_out * up * sigma * (one + gate * (one - sigma));
        vec_store_some(job->to_gate + i, to_gate, rest);
        vec_store_some(job->to_up + i, to_up, rest);
    }
}

/* With r = 1 / sqrt(mean(x^2) + eps) and g = to_out (weight + shift): to_x = r g - x r^3 mean(g x);
 * adds to_out x r to `to_weight` unless it is NULL. `to_x` may be `to_out`. */
ISA_FN static void norm_row_grad(const float *x, const float *to_out, const dflash_norm *norm,
                                 int width, float *to_x, float *to_weight) {
    v16 squares = v_zero(), product = v_zero(), shift = v_set1(norm->shift), one = v_set1(1.0f);
    for (int k = 0; k < width; k += 16) {
        int count = least(width - k, 16);
        v16 value = some_load(x + k, count), g = some_load(to_out + k, count);
        v16 weight = norm->weight ? v_add(some_load(norm->weight + k, count), shift) : one;
        squares = v_fma(value, value, squares);
        product = v_fma(v_mul(g, weight), value, product);
    }
    float r = 1.0f / sqrtf(v_total(squares) / (float)width + norm->eps);
    v16 by = v_set1(r), back = v_set1(-r * r * r * (v_total(product) / (float)width));
    for (int k = 0; k < width; k += 16) {
        int count = least(width - k, 16);
        v16 value = some_load(x + k, count), g = some_load(to_out + k, count);
        v16 weight = norm->weight ? v_add(some_load(norm->weight + k, count), shift) : one;
        v16 sum = to_weight ? some_load(to_weight + k, count) : one;
        if (to_weight)
            some_store(to_weight + k, v_fma(v_mul(g, by), value, sum), count);
        some_store(to_x + k, v_fma(v_mul(g, weight), by, v_mul(value, back)), count);
    }
}

ISA_FN static void norm_rows_grad(const norm_grad_job *job, ptrdiff_t from, ptrdiff_t to,
                                  float *to_weight) {
    for (ptrdiff_t row = from; row < to; row++) {
        ptrdiff_t at = row * job->width;
        norm_row_grad(job->x + at, job->to_out + at, &job->norm, job->width, job->to_x + at,
                      to_weight);
    }
}

/* The rotation back: to_left = to_left' cos + to_right' sin, to_right = to_right' cos - to_left' sin;
 * `turned` and `out` may be one. */
ISA_FN INLINE void rotate_row_back(const float *turned, const float *cos, const float *sin,
                                   int half, float *out) {
    for (int k = 0; k < half; k += LANES) {
        int count = least(half - k, LANES);
        vec left = tall_load(turned + k, count), right = tall_load(turned + half + k, count);
        vec c = tall_load(cos + k, count), s = tall_load(sin + k, count);
        vec to_left = left * c + right * s, to_right = right * c - left * s;
        vec_store_some(out + k, to_left, count);
        vec_store_some(out + half + k, to_right, count);
    }
}

ISA_FN static void rotate_rows_grad(const rotary_grad_job *job, ptrdiff_t from, ptrdiff_t to,
                                    float *to_weight) {
    const dflash_heads *in = &job->heads, *given = &job->to_out;
    int dim = in->dim, same = 2 * job->half;
    for (ptrdiff_t row = from; row < to; row++) { /* as [batch, columns, heads] */
        ptrdiff_t head = row % in->heads, place = row / in->heads;
        ptrdiff_t column = place % in->columns, batch = place / in->columns;
        ptrdiff_t table = place * job->half;
        const float *x = in->x + batch * in->strides[0] + head * in->strides[1] +
                         column * in->strides[2];
        const float *to_out = given->x + batch * given->strides[0] + head * given->strides[1] +
                              column * given->strides[2];
        float *to_x = job->to_x + row * dim;
        memcpy(to_x + same, to_out + same, (size_t)(dim - same) * sizeof(float));
        rotate_row_back(to_out, job->cos + table, job->sin + table, job->half, to_x);
        if (job->normed) norm_row_grad(x, to_x, &job->norm, dim, to_x, to_weight);
    }
}

/* The sum of e^(s - most). */
ISA_FN static float sum_exponentials(const float *s, int count, float most) {
    v16 sum = v_zero(), shift = v_set1(-most);
    int whole = count / 16 * 16, rest = count - whole;
    for (int i = 0; i < whole; i += 16) sum = v_add(sum, v_exp(v_add(v_load(s + i), shift)));
    if (rest) {
        float last[16];
        for (int l = 0; l < 16; l++) last[l] = l < rest ? s[whole + l] : HIDDEN;
        sum = v_add(sum, v_exp(v_add(v_load(last), shift)));
    }
    return v_total(sum);
}

ISA_FN static void entropy_rows(const entropy_job *job, ptrdiff_t from, ptrdiff_t to) {
    for (ptrdiff_t row = from; row < to; row++) {
        const float *x = job->logits + row * job->width;
        float most = greatest(x, job->width, HIDDEN);
        job->log_sums[row] = most + logf(sum_exponentials(x, job->width, most));
        job->losses[row] = job->log_sums[row] - x[job->labels[row]];
    }
}

/* (e^(x - log_sum) - [label]) to_loss */
ISA_FN static void entropy_rows_grad(const entropy_grad_job *job, ptrdiff_t from, ptrdiff_t to) {
    for (ptrdiff_t row = from; row < to; row++) {
        const float *x = job->logits + row * job->width;
        float *out = job->to_logits + row * job->width, by = job->to_losses[row];
        v16 shift = v_set1(-job->log_sums[row]), scale = v_set1(by);
        for (int k = 0; k < job->width; k += 16) {
            int count = least(job->width - k, 16);
            v16 value = some_load(x + k, count);
            some_store(out + k, v_mul(v_exp(v_add(value, shift)), scale), count);
        }
        out[job->labels[row]] -= by;
    }
}

ISA_FN static void adamw_range(const dflash_adamw *job, ptrdiff_t from, ptrdiff_t to) {
    const float *s = job->settings;
    v16 scale = v_set1(s[0]), rate = v_set1(-s[1]), root = v_set1(s[2]), keep = v_set1(s[3]);
    v16 first = v_set1(job->betas[0]), second = v_set1(job->betas[1]), eps = v_set1(job->eps);
    v16 first_rest = v_set1(1.0f - job->betas[0]), second_rest = v_set1(1.0f - job->betas[1]);
    for (ptrdiff_t i = from; i < to; i += 16) {
        int count = (int)(to - i < 16 ? to - i : 16);
        v16 g = v_mul(some_load(job->gradient + i, count), scale);
        v16 m = v_fma(first, some_load(job->mean + i, count), v_mul(first_rest, g));
        v16 v = v_fma(second, some_load(job->square + i, count), v_mul(second_rest, v_mul(g, g)));
        v16 step = v_mul(rate, m), below;
        EACH_PART(p) below.part[p] = vec_sqrt(v.part[p]);
        below = v_fma(below, root, eps);
        EACH_PART(p) step.part[p] = step.part[p] / below.part[p];
        v16 value = v_fma(keep, some_load(job->weight + i, count), step);
        some_store(job->new_mean + i, m, count);
        some_store(job->new_square + i, v, count);
        some_store(job->new_weight + i, value, count);
    }
}

/* Partial sums of 4096 squares each, added in float64 by the caller. */
ISA_FN static void square_sums(const squares_job *job, ptrdiff_t from, ptrdiff_t to) {
    for (ptrdiff_t part = from; part < to; part++) {
        ptrdiff_t start = part * SQUARES_PER_SUM, end = start + SQUARES_PER_SUM;
        if (end > job->count) end = job->count;
        v16 sum = v_zero();
        for (ptrdiff_t i = start; i < end; i += 16) {
            v16 x = some_load(job->x + i, (int)(end - i < 16 ? end - i : 16));
            sum = v_fma(x, x, sum);
        }
        job->sums[part] = v_total(sum);
    }
}
