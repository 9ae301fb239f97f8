// What only training computes.
#pragma once

#include "arrays.h"

namespace dflash {

// Cross-entropy [...] of logits [..., V] and labels [...] int32.
mx::array cross_entropy(const mx::array& logits, const mx::array& labels);

// New weight, mean and square of AdamW; `settings` [4] as in dflash_train.h.
std::vector<mx::array> adamw(const mx::array& gradient, const mx::array& weight,
                             const mx::array& mean, const mx::array& square,
                             const mx::array& settings, float beta1, float beta2, float eps);

// The sum of all arrays' squares, added in float64.
mx::array sum_of_squares(const std::vector<mx::array>& arrays);

// Who sees whom in attention over [context; own block].
struct BlockRule {
  float scale;
  bool causal;
  int window;  // 0: all
};

// Keys and values [R, kv_heads, q, dim].
struct KeysValues {
  mx::array keys, values;
};

// Queries [S * N, heads, B, dim] over their own block and the context before `anchors` [S, N].
// [S * N, B, heads, dim].
mx::array attend_blocks(const mx::array& queries, const KeysValues& own, const KeysValues& context,
                        const mx::array& anchors, const BlockRule& rule);

}  // namespace dflash
