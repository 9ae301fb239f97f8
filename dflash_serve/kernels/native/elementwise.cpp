#include "elementwise.h"

#include "dflash_cpu.h"

namespace dflash {

namespace {

class SwiGLU : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto &gate = inputs[0], &up = inputs[1];
    auto& out = outputs[0];
    allocate_or_take(gate, out);
    mx::cpu::get_command_encoder(stream()).dispatch(
        [from = gate.data<float>(), with = up.data<float>(), to = out.data<float>(),
         count = static_cast<ptrdiff_t>(out.size())] { dflash_swiglu(from, with, to, count); });
  }

  const char* name() const override { return "SwiGLU"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

}  // namespace

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  check_float32("swiglu", gate);
  check_float32("swiglu", up);
  if (gate.shape() != up.shape()) {
    throw std::invalid_argument("[swiglu] needs arrays of one shape");
  }
  return mx::array(gate.shape(), mx::float32, std::make_shared<SwiGLU>(cpu_stream()),
                   {mx::contiguous(gate), mx::contiguous(up)});
}

}  // namespace dflash
