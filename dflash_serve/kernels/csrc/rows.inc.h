/* Functions of rows: sums go over a row's columns in one order, whatever row it is and however
 * many there are. Included once per instruction set, after exp.inc.h. */

#include <math.h>
#include <string.h>

/* The sum of squares: column k is added in lane k mod 64, four vectors of sixteen. */
ISA_FN INLINE float squares(const float *x, int width) {
    v16 sums[4], all;
    UNROLL for (int s = 0; s < 4; s++) sums[s] = v_zero();
    int k = 0;
    for (; k + 64 <= width; k += 64)
        UNROLL for (int s = 0; s < 4; s++) {
            v16 part = v_load(x + k + 16 * s);
            sums[s] = v_fma(part, part, sums[s]);
        }
    UNROLL for (int s = 0; s < 4; s++)
        if (k + 16 * s < width) {
            int rest = width - k - 16 * s;
            v16 part = v_load_some(x + k + 16 * s, rest < 16 ? rest : 16);
            sums[s] = v_fma(part, part, sums[s]);
        }
    all = v_add(v_add(sums[0], sums[1]), v_add(sums[2], sums[3]));
    float total;
    v_reduce(&all, &total, 1);
    return total;
}

/* out = x / sqrt(mean(x^2) + eps) * (weight + shift); `weight` may be NULL. */
ISA_FN INLINE void norm_row(const float *x, const dflash_norm *norm, int width, float *out) {
    float scale = 1.0f / sqrtf(squares(x, width) / (float)width + norm->eps);
    vec by = vec_set1(scale), shift = vec_set1(norm->shift);
    int k = 0;
    for (; k + LANES <= width; k += LANES) {
        vec value = vec_load(x + k) * by;
        if (norm->weight) value = value * (vec_load(norm->weight + k) + shift);
        vec_store(out + k, value);
    }
    if (k < width) {
        vec value = vec_load_some(x + k, width - k) * by;
        if (norm->weight) value = value * (vec_load_some(norm->weight + k, width - k) + shift);
        vec_store_some(out + k, value, width - k);
    }
}

ISA_FN static void norm_rows(const norm_job *job, ptrdiff_t from, ptrdiff_t to) {
    for (ptrdiff_t row = from; row < to; row++)
        norm_row(job->x + row * job->width, &job->norm, job->width, job->out + row * job->width);
}

/* left' = left cos - right sin, right' = left sin + right cos; without fused products, as MLX. */
ISA_FN INLINE void rotate_row(const float *x, const float *cos, const float *sin, int half,
                              float *out) {
    int k = 0;
    for (; k + LANES <= half; k += LANES) {
        vec left = vec_load(x + k), right = vec_load(x + half + k);
        vec c = vec_load(cos + k), s = vec_load(sin + k);
        vec_store(out + k, left * c - right * s);
        vec_store(out + half + k, left * s + right * c);
    }
    if (k < half) {
        int rest = half - k;
        vec left = vec_load_some(x + k, rest), right = vec_load_some(x + half + k, rest);
        vec c = vec_load_some(cos + k, rest), s = vec_load_some(sin + k, rest);
        vec_store_some(out + k, left * c - right * s, rest);
        vec_store_some(out + half + k, left * s + right * c, rest);
    }
}

/* Rows [from, to) of the output [batch, heads, columns, dim], in this order. */
ISA_FN static void rotate_rows(const rotary_job *job, ptrdiff_t from, ptrdiff_t to) {
    const dflash_heads *in = &job->heads;
    for (ptrdiff_t row = from; row < to; row++) {
        ptrdiff_t column = row % in->columns, above = row / in->columns;
        ptrdiff_t head = above % in->heads, batch = above / in->heads;
        const float *x = in->x + batch * in->strides[0] + head * in->strides[1] +
                         column * in->strides[2];
        ptrdiff_t table = (batch * in->columns + column) * job->half;
        float *out = job->out + row * in->dim;
        if (job->normed) {
            norm_row(x, &job->norm, in->dim, out);
            x = out;
        } else {
            int same = 2 * job->half;
            memcpy(out + same, x + same, (size_t)(in->dim - same) * sizeof(float));
        }
        rotate_row(x, job->cos + table, job->sin + table, job->half, out);
    }
}

/* The first of the highest numbers, or the first that is none (NaN), as MLX's argmax. */
ISA_FN INLINE int best_of(const float *x, int width) {
    vec best = vec_set1(-__builtin_inff());
    vec_int first = {0}, at = {0}, step = {0}, odd = {0};
    for (int lane = 0; lane < LANES; lane++) at[lane] = lane, step[lane] = LANES;
    int k = 0;
    for (; k < width; k += LANES) {
        vec value = best;
        if (k + LANES <= width) value = vec_load(x + k);
        else memcpy(&value, x + k, (size_t)(width - k) * sizeof(float));
        vec_int above = (vec_int)(value > best);
        odd |= (vec_int)(value != value);
        best = (vec)(((vec_int)value & above) | ((vec_int)best & ~above));
        first = (at & above) | (first & ~above);
        at += step;
    }
    int any = 0, found = first[0];
    float highest = best[0];
    for (int lane = 0; lane < LANES; lane++) {
        any |= odd[lane];
        if (best[lane] > highest || (best[lane] == highest && first[lane] < found))
            highest = best[lane], found = first[lane];
    }
    for (k = 0; any && k < width; k++)
        if (x[k] != x[k]) return k;
    return found;
}

ISA_FN static void argmax_rows(const argmax_job *job, ptrdiff_t from, ptrdiff_t to) {
    for (ptrdiff_t row = from; row < to; row++)
        job->out[row] = best_of(job->x + row * job->width, job->width);
}
