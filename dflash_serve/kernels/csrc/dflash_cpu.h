/* What this library offers to the MLX extension: functions over float32 arrays, row-major, which
 * share the library's threads. No result depends on threads or on the place of a number. */
#ifndef DFLASH_CPU_H
#define DFLASH_CPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out[i] = silu(gate[i]) * up[i]; `out` may be `gate` or `up`, here and in the next two. */
void dflash_swiglu(const float *gate, const float *up, float *out, ptrdiff_t count);

/* The same with the tanh form of gelu. */
void dflash_geglu(const float *gate, const float *up, float *out, ptrdiff_t count);

/* g / (1 + e^(-alpha g)) * (u + 1), with g at most `limit` and u between -limit and limit. */
void dflash_clipped_swiglu(const float *gate, const float *up, float *out, ptrdiff_t count,
                           float alpha, float limit);

/* x / sqrt(mean(x^2) + eps) * (weight + shift); `weight` may be NULL, which leaves it out. */
typedef struct {
    const float *weight;
    float eps, shift;
} dflash_norm;

/* Every row [width] of `x`; `out` may be `x`. */
void dflash_rms_norm(const dflash_norm *norm, const float *x, float *out, ptrdiff_t rows,
                     int width);

/* [batch, heads, columns, dim] numbers, the last axis contiguous, the others `strides` apart. */
typedef struct {
    const float *x;
    ptrdiff_t strides[3];
    int batch, heads, columns, dim;
} dflash_heads;

/* Rotates the first 2 * half numbers of every head, in halves, by tables [batch, columns, half],
 * and normalises it first unless `norm` is NULL. `out`: contiguous, and not the input. */
void dflash_rotary(const dflash_heads *heads, const dflash_norm *norm, const float *cos,
                   const float *sin, int half, float *out);

/* out[row]: where a row's highest number first is, or the first NaN. */
void dflash_argmax(const float *x, int *out, ptrdiff_t rows, int width);

/* Causal convolutions along blocks of `columns` rows, as DFlash 2's: channel c of a row is the sum
 * over taps t of (base[t, c] + own[t, c's group]) times that channel t rows before, within the block.
 * x and out [rows, hidden], base [taps, hidden]; own [taps, groups] of each row, `own_stride` apart. */
typedef struct {
    const float *x, *base, *own;
    float *out;
    ptrdiff_t rows, own_stride;
    int columns, hidden, taps, groups;
} dflash_convolution;

void dflash_convolve(const dflash_convolution *job);

/* The `count` greatest numbers of each row [width], the greatest first, and where they are; NaN
 * counts as the lowest. */
void dflash_top(const float *x, ptrdiff_t rows, int width, int count, float *values, int *ids);

/* Tokens of blocks [rows, columns], chosen left to right: the candidate [count] of a slot with the
 * highest score, unary + sum over r of gates[r] * predecessors[token before, r] * successors[id, r].
 * Before the first one comes the row's anchor. */
typedef struct {
    int rows, columns, count, rank;
    const int *anchors, *ids;
    const float *unary, *gates, *predecessors, *successors;
    int *tokens;
    float *scores;
} dflash_walk;

void dflash_walk_blocks(const dflash_walk *job);

#define ATTEND_MOST_COLUMNS 256 /* of a forward whose columns do not follow one another */

/* One row of an attention: its cache, [kv_heads, capacity, dim] each of keys and values, whose
 * place p holds position p, or in a ring the newest position that is p modulo the capacity.
 *
 * The row's columns are at positions start + column, or start + depths[column]; [0, length) exist,
 * and the output of others is 0. `sees` [columns, columns]: who sees whom; `lines` [columns,
 * levels]: the column at each depth of a tree's path. All three or none are NULL, `lines` perhaps
 * alone. [first, last) is the library's own. */
typedef struct {
    int start, length, capacity, ring;
    float *keys, *values;
    const float *queries, *new_keys, *new_values;
    float *out; /* [columns, heads, dim] */
    const int *depths;
    const unsigned char *sees;
    const int *lines;
    int first, last;
} attend_row;

/* Strides count numbers: of queries [heads, columns, dim] and of new keys and values [kv_heads,
 * columns, dim]. `window`: positions that a query sees, its own included, 0 for all; `causal`: none
 * behind its own, otherwise all that exist. `sinks` [heads] or NULL: scores without a value.
 * `writes`: new keys and values go to their places first; in a ring `spare` columns at a time. */
typedef struct {
    int rows, heads, kv_heads, columns, dim, levels;
    ptrdiff_t q_head, q_column, q_dim;
    ptrdiff_t k_head, k_column, k_dim, v_head, v_column, v_dim;
    const float *sinks;
    float scale;
    int causal, window, spare, writes;
    attend_row *row;
} dflash_attention;

void dflash_attend(const dflash_attention *job);

/* Writes the first `length` columns of each row alone. */
void dflash_write(const dflash_attention *job);

/* Tokens [rows, width] of logits [rows, width, size]. `settings` [rows, 4]: temperature, top_p,
 * top_k and min_p; `keys` [rows, width, 2]; both NULL where all rows choose the greatest. `drafts` [rows,
 * width - 1] and `lengths` [rows], or NULL: positions that stand beyond a row's length, or behind
 * one whose token is not the draft's, get -1 instead of a token. */
typedef struct {
    int rows, width, size;
    const float *logits, *settings;
    const uint32_t *keys;
    const int *drafts, *lengths;
    int *tokens;
} dflash_choice;

void dflash_choose(const dflash_choice *job);

enum { DFLASH_FLOAT32, DFLASH_FLOAT16, DFLASH_BFLOAT16 };

/* A matrix [N, K] in MLX's affine form: numbers of 4 or 8 bits in words [N, K * bits / 32], each
 * standing for number * scale + bias of its group. `scales` and `biases` [N, K / group] are of
 * `type`; `group` is a multiple of 16. */
typedef struct {
    const uint32_t *words;
    const void *scales, *biases;
    int type, bits, group, N, K;
} dflash_quantised;

/* out [rows, N] = x [rows, K] times the transposed matrix: the bits of the product with its
 * float32 form. */
void dflash_quantised_product(const dflash_quantised *w, const float *x, int rows, float *out);

/* out [rows, outputs] = x [rows, inputs] by weight [outputs, inputs], and `bias` [outputs] or NULL. */
void dflash_linear(const float *x, int rows, int inputs, const float *weight, int outputs,
                   const float *bias, float *out);

#ifdef __cplusplus
}
#endif

#endif
