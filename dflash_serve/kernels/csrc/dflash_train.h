/* What this library offers to training: gradients, and functions that only training computes. */
#ifndef DFLASH_TRAIN_H
#define DFLASH_TRAIN_H

#include "dflash_cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

void dflash_swiglu_grad(const float *gate, const float *up, const float *to_out, float *to_gate,
                        float *to_up, ptrdiff_t count);

/* `to_weight` [width], or NULL where the norm has no weight. */
void dflash_rms_norm_grad(const dflash_norm *norm, const float *x, const float *to_out, float *to_x,
                          float *to_weight, ptrdiff_t rows, int width);

/* `to_out` has the sizes of `heads`; `to_x` is [batch, columns, heads, dim]. `norm` and `to_weight`
 * [dim] may be NULL. */
void dflash_rotary_grad(const dflash_heads *heads, const dflash_norm *norm, const float *cos,
                        const float *sin, int half, const dflash_heads *to_out, float *to_x,
                        float *to_weight);

/* `of` has no output; `to_x` is like its x, `to_base` like base, and `to_own` like own, with the
 * same stride. */
void dflash_convolve_grad(const dflash_convolution *of, const float *to_out, float *to_x,
                          float *to_base, float *to_own);

/* Of rows [width] of logits: losses = log_sums - logits[label], log_sums = log(sum(e^logits)). */
void dflash_entropy(const float *logits, const int *labels, float *losses, float *log_sums,
                    ptrdiff_t rows, int width);

/* to_logits = (e^(logits - log_sums) - [label]) to_losses; `to_logits` may be `logits`. */
void dflash_entropy_grad(const float *logits, const int *labels, const float *log_sums,
                         const float *to_losses, float *to_logits, ptrdiff_t rows, int width);

/* One step of AdamW. `settings`: what the gradient is multiplied with, the rate divided by
 * 1 - beta_1^step, 1 / sqrt(1 - beta_2^step) and what the weight is multiplied with first. New
 * arrays may be the old ones. */
typedef struct {
    const float *gradient, *weight, *mean, *square, *settings;
    float betas[2], eps;
    float *new_weight, *new_mean, *new_square;
} dflash_adamw;

void dflash_adamw_step(const dflash_adamw *job, ptrdiff_t count);

/* sum(x^2) */
double dflash_sum_of_squares(const float *x, ptrdiff_t count);

/* Attention of training: every block's queries over its sequence's context before the block's
 * anchor and over the block itself. Queries, `own` keys and values: [S * N, heads, B, dim], the
 * context's [S, kv_heads, T, dim]; `anchors` [S, N]. Query b of a block at anchor a sees context
 * keys t < a and own keys, with `causal` up to b; with a `window` those less than it behind a + b.
 *
 * `out` [S, N, B, heads, dim], `log_sums` [S, N, heads, B]. Gradients, of the same shapes as what
 * they belong to and contiguous, are written by the second function alone. */
typedef struct {
    dflash_heads queries, own_keys, own_values, keys, values;
    const int *anchors;
    int blocks, causal, window;
    float scale;
    float *out, *log_sums;
    const float *to_out;
    float *to_queries, *to_own_keys, *to_own_values, *to_keys, *to_values;
} dflash_blocks;

void dflash_attend_blocks(const dflash_blocks *job);
void dflash_attend_blocks_grad(const dflash_blocks *job);

#ifdef __cplusplus
}
#endif

#endif
