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

  std::vector<mx::array> gradients(const std::vector<mx::array>& inputs,
                                   const mx::array& to_out) const override {
    auto flat = mx::reshape(to_out, {-1, to_out.shape(-1)});
    auto x = mx::reshape(inputs[0], {-1, inputs[0].shape(-1)});
    std::vector<mx::array> found = {mx::matmul(to_out, inputs[1]),
                                    mx::matmul(mx::transpose(flat), x)};
    if (inputs.size() > 2) {
      found.push_back(mx::sum(flat, 0));
    }
    return found;
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
