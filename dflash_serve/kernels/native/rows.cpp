#include "rows.h"

#include "dflash_cpu.h"
#include "differentiable.h"
#include "gradients.h"

namespace dflash {

namespace {

// A norm's constants, and its weights as the last of a primitive's inputs.
struct Constants {
  bool weighted;
  float eps, shift;

  bool operator==(const Constants&) const = default;

  dflash_norm with(const float* weight) const { return {weight, eps, shift}; }

  Norm with_weight(const std::vector<mx::array>& inputs) const {
    return {weighted ? std::optional(inputs.back()) : std::nullopt, eps, shift};
  }
};

Constants constants_of(const Norm& norm) { return {norm.weight.has_value(), norm.eps, norm.shift}; }

// Adds a norm's weights to the inputs of a primitive over rows of `width`.
void append_weights(std::vector<mx::array>& inputs, const Norm& norm, int width) {
  if (norm.weight) {
    check_float32("rms_norm", *norm.weight);
    check(norm.weight->shape() == mx::Shape{width}, "[rms_norm] there is one weight per column");
    inputs.push_back(*norm.weight);
  }
}

class RowNorm : public Differentiable {
 public:
  RowNorm(mx::Stream stream, Constants norm) : Differentiable(stream), norm_(norm) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const float* x = row_major(stream(), inputs[0]);
    const float* weight = norm_.weighted ? row_major(stream(), inputs[1]) : nullptr;
    auto& out = outputs[0];
    allocate_or_take(inputs[0], out);
    int width = out.shape(-1);
    ptrdiff_t rows = width ? out.size() / width : 0;
    mx::cpu::get_command_encoder(stream()).dispatch(
        [x, norm = norm_.with(weight), to = out.data<float>(), rows, width] {
          dflash_rms_norm(&norm, x, to, rows, width);
        });
  }

  std::vector<mx::array> gradients(const std::vector<mx::array>& inputs,
                                   const mx::array& to_out) const override {
    return rms_norm_grad(inputs[0], norm_.with_weight(inputs), to_out);
  }

  const char* name() const override { return "RowNorm"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    return norm_ == static_cast<const RowNorm&>(other).norm_;
  }

 private:
  Constants norm_;
};

class Rotary : public Differentiable {
 public:
  Rotary(mx::Stream stream, bool normed, Constants norm)
      : Differentiable(stream), normed_(normed), norm_(norm) {}

  // x, cos, sin, [weight]
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto heads = heads_of(stream(), inputs[0]);
    const float *cos = row_major(stream(), inputs[1]), *sin = row_major(stream(), inputs[2]);
    const float* weight = norm_.weighted ? row_major(stream(), inputs[3]) : nullptr;
    auto& out = outputs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    mx::cpu::get_command_encoder(stream()).dispatch(
        [heads, norm = norm_.with(weight), normed = normed_, cos, sin, half = inputs[1].shape(3),
         to = out.data<float>()] {
          dflash_rotary(&heads, normed ? &norm : nullptr, cos, sin, half, to);
        });
  }

  // Tables have none.
  std::vector<mx::array> gradients(const std::vector<mx::array>& inputs,
                                   const mx::array& to_out) const override {
    std::optional<Norm> norm;
    if (normed_) {
      norm = norm_.with_weight(inputs);
    }
    auto found = rotary_grad(inputs[0], inputs[1], inputs[2], norm, to_out);
    found.insert(found.begin() + 1, {mx::zeros_like(inputs[1]), mx::zeros_like(inputs[2])});
    return found;
  }

  const char* name() const override { return "Rotary"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const Rotary&>(other);
    return normed_ == same.normed_ && norm_ == same.norm_;
  }

 private:
  bool normed_;
  Constants norm_;
};

class RowArgmax : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const float* x = row_major(stream(), inputs[0]);
    auto& out = outputs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    mx::cpu::get_command_encoder(stream()).dispatch(
        [x, to = out.data<int>(), rows = static_cast<ptrdiff_t>(out.size()),
         width = inputs[0].shape(-1)] { dflash_argmax(x, to, rows, width); });
  }

  const char* name() const override { return "RowArgmax"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

}  // namespace

mx::array rms_norm(const mx::array& x, const Norm& norm) {
  check_float32("rms_norm", x);
  check(x.ndim() > 0, "[rms_norm] needs rows");
  std::vector<mx::array> inputs = {x};
  append_weights(inputs, norm, x.shape(-1));
  return mx::array(x.shape(), mx::float32,
                   std::make_shared<RowNorm>(cpu_stream(), constants_of(norm)), std::move(inputs));
}

mx::array rotary(const mx::array& x, const mx::array& cos, const mx::array& sin,
                 const std::optional<Norm>& norm) {
  for (const auto* array : {&x, &cos, &sin}) {
    check_float32("rotary", *array);
    check(array->ndim() == 4, "[rotary] needs [R, heads, q, d] and tables [R, 1, q, half]");
  }
  int half = cos.shape(3);
  check(cos.shape() == mx::Shape{x.shape(0), 1, x.shape(2), half} && sin.shape() == cos.shape() &&
            2 * half <= x.shape(3),
        "[rotary] needs [R, heads, q, d] and tables [R, 1, q, half]");
  std::vector<mx::array> inputs = {x, cos, sin};
  Constants constants = {};
  if (norm) {
    append_weights(inputs, *norm, x.shape(3));
    constants = constants_of(*norm);
  }
  return mx::array(x.shape(), mx::float32,
                   std::make_shared<Rotary>(cpu_stream(), norm.has_value(), constants),
                   std::move(inputs));
}

mx::array argmax(const mx::array& x) {
  check_float32("argmax", x);
  check(x.ndim() > 0 && x.shape(-1) > 0, "[argmax] needs rows that are not empty");
  mx::Shape shape(x.shape().begin(), x.shape().end() - 1);
  return mx::array(shape, mx::int32, std::make_shared<RowArgmax>(cpu_stream()), {x});
}

}  // namespace dflash
