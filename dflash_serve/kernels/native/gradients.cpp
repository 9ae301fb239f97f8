#include "gradients.h"

#include "dflash_train.h"
#include "differentiable.h"

namespace dflash {

namespace {

// A primitive with several outputs.
class Gradient : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

 protected:
  static float* allocate(mx::array& out) {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    return out.data<float>();
  }
};

class SwigluGrad : public Gradient {
 public:
  using Gradient::Gradient;

  // gate, up, to_out
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const float *gate = row_major(stream(), inputs[0]), *up = row_major(stream(), inputs[1]);
    const float* to_out = row_major(stream(), inputs[2]);
    float *to_gate = allocate(outputs[0]), *to_up = allocate(outputs[1]);
    mx::cpu::get_command_encoder(stream()).dispatch(
        [gate, up, to_out, to_gate, to_up, count = static_cast<ptrdiff_t>(outputs[0].size())] {
          dflash_swiglu_grad(gate, up, to_out, to_gate, to_up, count);
        });
  }

  const char* name() const override { return "SwigluGrad"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

// What gradients of norms have in common: constants, and the weight as the last input.
class NormGradient : public Gradient {
 public:
  NormGradient(mx::Stream stream, bool normed, const std::optional<Norm>& norm)
      : Gradient(stream),
        normed_(normed),
        weighted_(norm && norm->weight),
        eps_(norm ? norm->eps : 0),
        shift_(norm ? norm->shift : 0) {}

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const NormGradient&>(other);
    return normed_ == same.normed_ && weighted_ == same.weighted_ && eps_ == same.eps_ &&
           shift_ == same.shift_;
  }

 protected:
  dflash_norm norm(const std::vector<mx::array>& inputs) {
    return {weighted_ ? row_major(stream(), inputs.back()) : nullptr, eps_, shift_};
  }
  float* to_weight(std::vector<mx::array>& outputs) const {
    return weighted_ ? allocate(outputs[1]) : nullptr;
  }

  bool normed_, weighted_;

 private:
  float eps_, shift_;
};

class RowNormGrad : public NormGradient {
 public:
  RowNormGrad(mx::Stream stream, const Norm& norm) : NormGradient(stream, true, norm) {}

  // x, to_out, [weight]
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const float *x = row_major(stream(), inputs[0]), *to_out = row_major(stream(), inputs[1]);
    int width = outputs[0].shape(-1);
    ptrdiff_t rows = width ? outputs[0].size() / width : 0;
    mx::cpu::get_command_encoder(stream()).dispatch(
        [x, to_out, norm = norm(inputs), to_x = allocate(outputs[0]),
         to_weight = to_weight(outputs), rows, width] {
          dflash_rms_norm_grad(&norm, x, to_out, to_x, to_weight, rows, width);
        });
  }

  const char* name() const override { return "RowNormGrad"; }
};

class RotaryGrad : public NormGradient {
 public:
  RotaryGrad(mx::Stream stream, const std::optional<Norm>& norm)
      : NormGradient(stream, norm.has_value(), norm) {}

  // x, cos, sin, to_out, [weight]
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto heads = heads_of(stream(), inputs[0]), to_out = heads_of(stream(), inputs[3]);
    const float *cos = row_major(stream(), inputs[1]), *sin = row_major(stream(), inputs[2]);
    float* to_x = allocate_as_projected(outputs[0]);
    mx::cpu::get_command_encoder(stream()).dispatch(
        [heads, to_out, norm = norm(inputs), normed = normed_, cos, sin,
         half = inputs[1].shape(3), to_x, to_weight = to_weight(outputs)] {
          dflash_rotary_grad(&heads, normed ? &norm : nullptr, cos, sin, half, &to_out, to_x,
                             to_weight);
        });
  }

  const char* name() const override { return "RotaryGrad"; }
};

std::vector<mx::array> with_weight(mx::Shape shape, const std::optional<Norm>& norm,
                                   std::shared_ptr<mx::Primitive> primitive,
                                   std::vector<mx::array> inputs) {
  std::vector<mx::Shape> shapes = {std::move(shape)};
  if (norm && norm->weight) {
    shapes.push_back(norm->weight->shape());
    inputs.push_back(*norm->weight);
  }
  std::vector<mx::Dtype> types(shapes.size(), mx::float32);
  return mx::array::make_arrays(shapes, types, primitive, inputs);
}

}  // namespace

std::vector<mx::array> swiglu_grad(const mx::array& gate, const mx::array& up,
                                   const mx::array& to_out) {
  return mx::array::make_arrays({gate.shape(), up.shape()}, {mx::float32, mx::float32},
                                std::make_shared<SwigluGrad>(cpu_stream()), {gate, up, to_out});
}

std::vector<mx::array> rms_norm_grad(const mx::array& x, const Norm& norm,
                                     const mx::array& to_out) {
  return with_weight(x.shape(), norm, std::make_shared<RowNormGrad>(cpu_stream(), norm),
                     {x, to_out});
}

std::vector<mx::array> rotary_grad(const mx::array& x, const mx::array& cos, const mx::array& sin,
                                   const std::optional<Norm>& norm, const mx::array& to_out) {
  return with_weight(x.shape(), norm, std::make_shared<RotaryGrad>(cpu_stream(), norm),
                     {x, cos, sin, to_out});
}

}  // namespace dflash
