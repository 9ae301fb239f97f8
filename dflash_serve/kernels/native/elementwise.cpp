#include "elementwise.h"

#include <cmath>

#include "dflash_cpu.h"
#include "differentiable.h"
#include "gradients.h"

namespace dflash {

namespace {

enum class Unit { swiglu, geglu, clipped };

class Gated : public Differentiable {
 public:
  Gated(mx::Stream stream, Unit unit, float alpha, float limit)
      : Differentiable(stream), unit_(unit), alpha_(alpha), limit_(limit) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const float *gate = row_major(stream(), inputs[0]), *up = row_major(stream(), inputs[1]);
    auto& out = outputs[0];
    allocate_or_take(inputs[0], out);
    mx::cpu::get_command_encoder(stream()).dispatch(
        [gate, up, to = out.data<float>(), count = static_cast<ptrdiff_t>(out.size()),
         unit = unit_, alpha = alpha_, limit = limit_] {
          switch (unit) {
            case Unit::swiglu:
              return dflash_swiglu(gate, up, to, count);
            case Unit::geglu:
              return dflash_geglu(gate, up, to, count);
            case Unit::clipped:
              return dflash_clipped_swiglu(gate, up, to, count, alpha, limit);
          }
        });
  }

  std::vector<mx::array> gradients(const std::vector<mx::array>& inputs,
                                   const mx::array& to_out) const override {
    if (unit_ == Unit::swiglu) {
      return swiglu_grad(inputs[0], inputs[1], to_out);
    }
    auto form = [this](const std::vector<mx::array>& given) {
      return std::vector<mx::array>{plain(given)};
    };
    return mx::vjp(form, inputs, {to_out}).second;
  }

  // Of geglu and the clipped unit.
  mx::array plain(const std::vector<mx::array>& inputs) const {
    const auto &gate = inputs[0], &up = inputs[1];
    if (unit_ == Unit::geglu) {
      auto inner = gate * (1.0f + 0.044715f * mx::square(gate));
      return gate * mx::sigmoid(static_cast<float>(std::sqrt(8 / M_PI)) * inner) * up;
    }
    auto limit = mx::array(limit_), clipped = mx::minimum(gate, limit);
    auto linear = mx::clip(up, mx::array(-limit_), limit) + 1.0f;
    return clipped * mx::sigmoid(alpha_ * clipped) * linear;
  }

  const char* name() const override { return "Gated"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const Gated&>(other);
    return unit_ == same.unit_ && alpha_ == same.alpha_ && limit_ == same.limit_;
  }

 private:
  Unit unit_;
  float alpha_, limit_;
};

mx::array gated(const char* op, Unit unit, const mx::array& gate, const mx::array& up,
                float alpha = 0, float limit = 0) {
  check_float32(op, gate);
  check_float32(op, up);
  if (gate.shape() != up.shape()) {
    throw std::invalid_argument(std::string("[") + op + "] needs arrays of one shape");
  }
  return mx::array(gate.shape(), mx::float32,
                   std::make_shared<Gated>(cpu_stream(), unit, alpha, limit), {gate, up});
}

}  // namespace

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  return gated("swiglu", Unit::swiglu, gate, up);
}

mx::array geglu(const mx::array& gate, const mx::array& up) {
  return gated("geglu", Unit::geglu, gate, up);
}

mx::array clipped_swiglu(const mx::array& gate, const mx::array& up, float alpha, float limit) {
  return gated("clipped_swiglu", Unit::clipped, gate, up, alpha, limit);
}

}  // namespace dflash
