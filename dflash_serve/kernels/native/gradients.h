// Gradients of this extension's differentiable functions, each in one pass over its arrays.
#pragma once

#include "rows.h"

namespace dflash {

// Those of gate and up.
std::vector<mx::array> swiglu_grad(const mx::array& gate, const mx::array& up,
                                   const mx::array& to_out);

// Those of x and, where the norm has one, its weight.
std::vector<mx::array> rms_norm_grad(const mx::array& x, const Norm& norm, const mx::array& to_out);

// Those of x, laid out as projections leave heads, and of the norm's weight.
std::vector<mx::array> rotary_grad(const mx::array& x, const mx::array& cos, const mx::array& sin,
                                   const std::optional<Norm>& norm, const mx::array& to_out);

}  // namespace dflash
