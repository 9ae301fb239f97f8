// Primitives with gradients: those of the same function in MLX's own operations.
#pragma once

#include "arrays.h"
#include "mlx/backend/common/utils.h"
#include "mlx/transforms.h"

namespace dflash {

// One output, of inputs that are all float32.
class Differentiable : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  virtual mx::array plain(const std::vector<mx::array>& inputs) const = 0;

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>&) override {
    auto form = [this](const std::vector<mx::array>& inputs) {
      return std::vector<mx::array>{plain(inputs)};
    };
    auto all = mx::vjp(form, primals, cotangents).second;
    std::vector<mx::array> wanted;
    for (int index : argnums) {
      wanted.push_back(all[index]);
    }
    return wanted;
  }
};

// The numbers of an array in row-major order, for tasks that are dispatched after this: its own,
// or a copy that a task makes before them.
inline const float* row_major(mx::Stream stream, const mx::array& in) {
  if (in.flags().row_contiguous) {
    return in.data<float>();
  }
  mx::array copy(in.shape(), in.dtype(), nullptr, {});
  copy.set_data(mx::allocator::malloc(copy.nbytes()));
  auto& encoder = mx::cpu::get_command_encoder(stream);
  encoder.dispatch([from = in.data<float>(), to = copy.data<float>(), shape = in.shape(),
                    strides = in.strides(), count = static_cast<int>(in.size())]() mutable {
    int last = shape.back();
    for (int first = 0; first < count; first += last) {
      const float* row = from + mx::elem_to_loc(first, shape, strides);
      for (int k = 0; k < last; ++k) {
        *to++ = row[k * strides.back()];
      }
    }
  });
  encoder.add_temporary(copy);
  return copy.data<float>();
}

}  // namespace dflash
