// A layer's product as one operation: MLX makes four nodes of one.
#pragma once

#include <optional>

#include "arrays.h"

namespace dflash {

// x [..., K] by weight [N, K], and bias [N], to [..., N]
mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias);

}  // namespace dflash
