// Primitives with gradients.
#pragma once

#include "arrays.h"
#include "dflash_cpu.h"
#include "mlx/backend/common/utils.h"
#include "mlx/transforms.h"

namespace dflash {

// One output, of inputs that are all float32.
class Differentiable : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // Those of all inputs, of which MLX computes what is used.
  virtual std::vector<mx::array> gradients(const std::vector<mx::array>& inputs,
                                           const mx::array& to_out) const = 0;

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>&) override {
    auto all = gradients(primals, cotangents[0]);
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

// Heads [batch, heads, columns, dim] as they lie in memory, for tasks as in `row_major`.
inline dflash_heads heads_of(mx::Stream stream, const mx::array& x) {
  dflash_heads heads = {};
  heads.batch = x.shape(0);
  heads.heads = x.shape(1);
  heads.columns = x.shape(2);
  heads.dim = x.shape(3);
  if (heads.dim > 1 && x.strides(3) != 1) {
    heads.x = row_major(stream, x);
    heads.strides[2] = heads.dim;
    heads.strides[1] = heads.dim * x.shape(2);
    heads.strides[0] = heads.strides[1] * x.shape(1);
  } else {
    heads.x = x.data<float>();
    std::copy_n(x.strides().begin(), 3, heads.strides);
  }
  return heads;
}

// Memory for heads [batch, heads, columns, dim] in the order of a projection's output [batch,
// columns, heads, dim].
inline float* allocate_as_projected(mx::array& out) {
  int64_t heads = out.shape(1), columns = out.shape(2), dim = out.shape(3);
  mx::Strides strides = {heads * columns * dim, dim, heads * dim, 1};
  bool rows = heads == 1 || columns == 1;
  out.set_data(mx::allocator::malloc(out.nbytes()), out.size(), strides,
               mx::array::Flags{true, rows, out.size() <= 1});
  return out.data<float>();
}

}  // namespace dflash
