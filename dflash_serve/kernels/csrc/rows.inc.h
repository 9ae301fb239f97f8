/* Functions of rows, to MLX's bits, whatever row it is and however many there are. Included once per
 * instruction set, after exp.inc.h. */

#include <math.h>
#include <string.h>

#define ROWS_AT_ONCE 8 /* independent sums, whose additions overlap */

/* Sums of squares over the columns, one behind the other. */
ISA_FN INLINE void sum_squares(const float *const *rows, int width, float *sums) {
    for (int r = 0; r < ROWS_AT_ONCE; r++) sums[r] = 0;
    for (int k = 0; k < width; k++)
        UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) sums[r] += rows[r][k] * rows[r][k];
}

/* out = x * scale * (weight + shift); `weight` may be NULL. */
ISA_FN INLINE void scale_row(const float *x, float scale, const dflash_norm *norm, int width,
                             float *out) {
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

/* out = x / sqrt(mean(x^2) + eps) * (weight + shift), of up to ROWS_AT_ONCE rows. */
ISA_FN static void norm_some(const float **rows, int count, const dflash_norm *norm, int width,
                             float *out) {
    float sums[ROWS_AT_ONCE], part = (float)(1.0 / width);
    for (int r = count; r < ROWS_AT_ONCE; r++) rows[r] = rows[0];
    sum_squares(rows, width, sums);
    for (int r = 0; r < count; r++) {
        float scale = 1.0f / sqrtf(sums[r] * part + norm->eps);
        scale_row(rows[r], scale, norm, width, out + (ptrdiff_t)r * width);
    }
}

ISA_FN static void norm_rows(const norm_job *job, ptrdiff_t from, ptrdiff_t to) {
    const float *rows[ROWS_AT_ONCE];
    for (ptrdiff_t row = from; row < to; row += ROWS_AT_ONCE) {
        int count = (int)(to - row < ROWS_AT_ONCE ? to - row : ROWS_AT_ONCE);
        for (int r = 0; r < count; r++) rows[r] = job->x + (row + r) * job->width;
        norm_some(rows, count, &job->norm, job->width, job->out + row * job->width);
    }
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

/* A row of the output [batch, heads, columns, dim] in the input and in the tables. */
typedef struct {
    const float *x;
    ptrdiff_t table;
} head_place;

ISA_FN INLINE head_place place_of(const rotary_job *job, ptrdiff_t row) {
    const dflash_heads *in = &job->heads;
    ptrdiff_t column = row % in->columns, above = row / in->columns;
    ptrdiff_t head = above % in->heads, batch = above / in->heads;
    return (head_place){
        in->x + batch * in->strides[0] + head * in->strides[1] + column * in->strides[2],
        (batch * in->columns + column) * job->half,
    };
}

ISA_FN static void rotate_rows(const rotary_job *job, ptrdiff_t from, ptrdiff_t to) {
    int dim = job->heads.dim, same = 2 * job->half;
    for (ptrdiff_t row = from; row < to; row += ROWS_AT_ONCE) {
        int count = (int)(to - row < ROWS_AT_ONCE ? to - row : ROWS_AT_ONCE);
        const float *rows[ROWS_AT_ONCE];
        float *out = job->out + row * dim;
        for (int r = 0; r < count; r++) rows[r] = place_of(job, row + r).x;
        if (job->normed) norm_some(rows, count, &job->norm, dim, out);
        for (int r = 0; r < count; r++, out += dim) {
            ptrdiff_t table = place_of(job, row + r).table;
            if (!job->normed) memcpy(out + same, rows[r] + same, (size_t)(dim - same) * sizeof(float));
            rotate_row(job->normed ? out : rows[r], job->cos + table, job->sin + table, job->half, out);
        }
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
        best = vec_select(above, value, best);
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
