#include "linear.h"

#include "dflash_cpu.h"
#include "differentiable.h"

namespace dflash {

namespace {

class Linear : public Differentiable {
 public:
  using Differentiable::Differentiable;

  // x, weight, [bias]
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const float *x = row_major(stream(), inputs[0]), *weight = row_major(stream(), inputs[1]);
    const float* bias = inputs.size() > 2 ? row_major(stream(), inputs[2]) : nullptr;
    auto& out = outputs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    int width = inputs[1].shape(1), wide = inputs[1].shape(0);
    int rows = wide ? out.size() / wide : 0;
    mx::cpu::get_command_encoder(stream()).dispatch(
        [x, rows, width, weight, wide, bias, to = out.data<float>()] {
          dflash_linear(x, rows, width, weight, wide, bias, to);
        });
  }

  mx::array plain(const std::vector<mx::array>& inputs) const override {
    auto turned = mx::transpose(inputs[1]);
    return inputs.size() > 2 ? mx::addmm(inputs[2], inputs[0], turned)
                             : mx::matmul(inputs[0], turned);
  }

  const char* name() const override { return "Linear"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

}  // namespace

mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias) {
  std::vector<mx::array> inputs = {x, weight};
  if (bias) {
    inputs.push_back(*bias);
  }
  for (const auto& input : inputs) {
    check_float32("linear", input);
  }
  if (x.ndim() == 0 || weight.ndim() != 2 || x.shape(-1) != weight.shape(1) ||
      (bias && bias->shape() != mx::Shape{weight.shape(0)})) {
    throw std::invalid_argument("[linear] needs x [..., K], a weight [N, K] and a bias [N]");
  }
  auto shape = x.shape();
  shape.back() = weight.shape(0);
  return mx::array(shape, mx::float32, std::make_shared<Linear>(cpu_stream()), std::move(inputs));
}

}  // namespace dflash
