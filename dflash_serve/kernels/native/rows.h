// Functions of the rows, or heads, of float32 arrays.
#pragma once

#include <optional>

#include "arrays.h"

namespace dflash {

// What a norm of rows [n] multiplies them with: weight + shift, or nothing.
struct Norm {
  std::optional<mx::array> weight;
  float eps;
  float shift;
};

// x / sqrt(mean(x^2) + eps) * (weight + shift), of x [..., n]
mx::array rms_norm(const mx::array& x, const Norm& norm);

// Rotates the first numbers of every head of x [R, heads, q, d], in halves, by tables cos and sin
// [R, 1, q, half]; with a norm, of heads that are normalised first.
mx::array rotary(const mx::array& x, const mx::array& cos, const mx::array& sin,
                 const std::optional<Norm>& norm);

// [..., n] -> [...] int32: as MLX's argmax
mx::array argmax(const mx::array& x);

}  // namespace dflash
