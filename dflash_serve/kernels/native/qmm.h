// Products with quantised matrices.
#pragma once

#include "arrays.h"

namespace dflash {

// A matrix [N, K] in MLX's affine form, of numbers of 4 or 8 bits.
struct QuantisedMatrix {
  mx::array words, scales, biases;
  int group;
  int bits;
};

// x [..., K] times the transposed matrix: [..., N], with the bits that its float32 form gives.
mx::array quantised_product(const mx::array& x, const QuantisedMatrix& matrix);

}  // namespace dflash
