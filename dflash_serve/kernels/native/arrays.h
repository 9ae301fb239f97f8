// What primitives of this extension share: they run on the CPU, over float32 arrays.
#pragma once

#include "mlx/mlx.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"

namespace dflash {

namespace mx = mlx::core;

// A primitive for MLX's CPU back end alone.
class CpuPrimitive : public mx::Primitive {
 public:
  using mx::Primitive::Primitive;

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(std::string(name()) + " runs on the CPU alone");
  }
};

// The stream that a primitive of this extension runs in.
inline mx::Stream cpu_stream() { return mx::default_stream(mx::Device::cpu); }

inline void check(bool holds, const char* message) {
  if (!holds) {
    throw std::invalid_argument(message);
  }
}

inline void check_float32(const char* op, const mx::array& array) {
  if (array.dtype() != mx::float32) {
    throw std::invalid_argument(std::string("[") + op + "] needs float32 arrays");
  }
}

// MLX gives each output of a primitive a list of all inputs, and each list counts as a user of them.
// Lets go of all but one, so that inputs can be taken over.
inline void share_inputs(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  for (auto& out : outputs) {
    if (&out.inputs() != &inputs && !out.is_tracer()) {
      out.inputs().clear();
    }
  }
}

// Gives `out` the buffer of `in` where nobody else reads it, and a new one otherwise.
inline void allocate_or_take(const mx::array& in, mx::array& out) {
  if (in.is_donatable() && in.itemsize() == out.itemsize() && in.flags().row_contiguous) {
    out.copy_shared_buffer(in);
  } else {
    out.set_data(mx::allocator::malloc(out.nbytes()));
  }
}

}  // namespace dflash
