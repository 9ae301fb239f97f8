#pragma once

#include "arrays.h"

namespace dflash {

// silu(gate) * up, float32 arrays of one shape.
mx::array swiglu(const mx::array& gate, const mx::array& up);

}  // namespace dflash
