// Gated units of two float32 arrays of one shape.
#pragma once

#include "arrays.h"

namespace dflash {

// silu(gate) * up
mx::array swiglu(const mx::array& gate, const mx::array& up);

// gelu(gate) * up in the tanh form
mx::array geglu(const mx::array& gate, const mx::array& up);

// gpt-oss's: g * sigmoid(alpha * g) * (u + 1) of numbers clipped to the limit
mx::array clipped_swiglu(const mx::array& gate, const mx::array& up, float alpha, float limit);

}  // namespace dflash
