#include "drafting.h"

#include <algorithm>
#include <span>

#include "dflash_cpu.h"
#include "dflash_train.h"
#include "differentiable.h"

namespace dflash {

namespace {

// The convolution of one side, for tasks as in `row_major`; without an output.
dflash_convolution convolution_of(mx::Stream stream, const std::vector<mx::array>& inputs,
                                  int side) {
  const auto &x = inputs[0], &own = inputs[2];
  dflash_convolution job = {};
  job.columns = x.shape(1);
  job.hidden = x.shape(2);
  job.taps = own.shape(3);
  job.groups = own.shape(4);
  job.rows = ptrdiff_t(x.shape(0)) * job.columns;
  job.own_stride = ptrdiff_t(own.shape(2)) * job.taps * job.groups;
  job.x = row_major(stream, x);
  job.base = row_major(stream, inputs[1]) + ptrdiff_t(side) * job.taps * job.hidden;
  job.own = row_major(stream, own) + ptrdiff_t(side) * job.taps * job.groups;
  return job;
}

// x, base, own, to_out -> gradients of the first three
class ConvolutionGrad : public CpuPrimitive {
 public:
  ConvolutionGrad(mx::Stream stream, int side) : CpuPrimitive(stream), side_(side) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto job = convolution_of(stream(), inputs, side_);
    const float* to_out = row_major(stream(), inputs[3]);
    for (auto& out : outputs) {
      out.set_data(mx::allocator::malloc(out.nbytes()));
    }
    auto whole = [](mx::array& out) { return std::span(out.data<float>(), out.size()); };
    mx::cpu::get_command_encoder(stream()).dispatch(
        [job, to_out, side = side_, to_x = outputs[0].data<float>(), to_base = whole(outputs[1]),
         to_own = whole(outputs[2])] {
          std::ranges::fill(to_base, 0.0f);
          std::ranges::fill(to_own, 0.0f);  // the other side has none
          dflash_convolve_grad(&job, to_out, to_x,
                               &to_base[size_t(side) * job.taps * job.hidden],
                               &to_own[size_t(side) * job.taps * job.groups]);
        });
  }

  const char* name() const override { return "ConvolutionGrad"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    return side_ == static_cast<const ConvolutionGrad&>(other).side_;
  }

 private:
  int side_;
};

class Convolution : public Differentiable {
 public:
  Convolution(mx::Stream stream, int side) : Differentiable(stream), side_(side) {}

  // x, base, own
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& out = outputs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    auto job = convolution_of(stream(), inputs, side_);
    job.out = out.data<float>();
    mx::cpu::get_command_encoder(stream()).dispatch([job] { dflash_convolve(&job); });
  }

  std::vector<mx::array> gradients(const std::vector<mx::array>& inputs,
                                   const mx::array& to_out) const override {
    std::vector<mx::Shape> shapes;
    for (const auto& input : inputs) {
      shapes.push_back(input.shape());
    }
    auto given = inputs;
    given.push_back(to_out);
    return mx::array::make_arrays(shapes, std::vector<mx::Dtype>(3, mx::float32),
                                  std::make_shared<ConvolutionGrad>(cpu_stream(), side_), given);
  }

  const char* name() const override { return "Convolution"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    return side_ == static_cast<const Convolution&>(other).side_;
  }

 private:
  int side_;
};

class Top : public CpuPrimitive {
 public:
  Top(mx::Stream stream, int count) : CpuPrimitive(stream), count_(count) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto &values = outputs[0], &places = outputs[1];
    values.set_data(mx::allocator::malloc(values.nbytes()));
    places.set_data(mx::allocator::malloc(places.nbytes()));
    mx::cpu::get_command_encoder(stream()).dispatch(
        [x = row_major(stream(), inputs[0]), width = inputs[0].shape(-1), count = count_,
         rows = static_cast<ptrdiff_t>(values.size()) / count_, to = values.data<float>(),
         at = places.data<int>()] { dflash_top(x, rows, width, count, to, at); });
  }

  const char* name() const override { return "Top"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return count_ == static_cast<const Top&>(other).count_;
  }

 private:
  int count_;
};

class Walk : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // anchors, ids, logits, gates, predecessors, successors
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto &tokens = outputs[0], &scores = outputs[1];
    tokens.set_data(mx::allocator::malloc(tokens.nbytes()));
    scores.set_data(mx::allocator::malloc(scores.nbytes()));
    dflash_walk job = {};
    job.rows = scores.shape(0);
    job.columns = scores.shape(1);
    job.count = scores.shape(2);
    job.rank = inputs[3].shape(2);
    job.anchors = inputs[0].data<int>();
    job.ids = inputs[1].data<int>();
    job.unary = row_major(stream(), inputs[2]);
    job.gates = row_major(stream(), inputs[3]);
    job.predecessors = row_major(stream(), inputs[4]);
    job.successors = row_major(stream(), inputs[5]);
    job.tokens = tokens.data<int>();
    job.scores = scores.data<float>();
    mx::cpu::get_command_encoder(stream()).dispatch([job] { dflash_walk_blocks(&job); });
  }

  const char* name() const override { return "Walk"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

}  // namespace

mx::array convolve(const mx::array& x, const mx::array& base, const mx::array& own, int side) {
  for (const auto* array : {&x, &base, &own}) {
    check_float32("convolve", *array);
  }
  check(x.ndim() == 3 && own.ndim() == 5 && own.shape(0) == x.shape(0) &&
            own.shape(1) == x.shape(1) && own.shape(4) > 0 && x.shape(2) % own.shape(4) == 0 &&
            base.shape() == mx::Shape{own.shape(2), own.shape(3), x.shape(2)},
        "[convolve] needs rows [B, q, H], kernels [sides, taps, H] and [B, q, sides, taps, G]");
  check(side >= 0 && side < own.shape(2) && own.shape(3) > 0, "[convolve] there is no such side");
  return mx::array(x.shape(), mx::float32, std::make_shared<Convolution>(cpu_stream(), side),
                   {x, base, own});
}

std::vector<mx::array> top(const mx::array& x, int count) {
  check_float32("top", x);
  check(x.ndim() > 0 && count > 0 && count <= x.shape(-1), "[top] needs rows of at least count");
  auto shape = x.shape();
  shape.back() = count;
  return mx::array::make_arrays({shape, shape}, {mx::float32, mx::int32},
                                std::make_shared<Top>(cpu_stream(), count), {x});
}

std::vector<mx::array> walk(const mx::array& anchors, const Candidates& candidates,
                            const Rescoring& rescoring) {
  const auto &[gates, predecessors, successors] = rescoring;
  for (const auto* array : {&candidates.logits, &gates, &predecessors, &successors}) {
    check_float32("walk", *array);
  }
  check(anchors.dtype() == mx::int32 && candidates.ids.dtype() == mx::int32,
        "[walk] needs int32 tokens");
  auto shape = candidates.ids.shape();
  check(shape.size() == 3 && shape[2] > 0 && candidates.logits.shape() == shape &&
            anchors.shape() == mx::Shape{shape[0]} && gates.ndim() == 3 &&
            gates.shape(0) == shape[0] && gates.shape(1) == shape[1],
        "[walk] needs candidates [B, q, C], gates [B, q, r] and anchors [B]");
  check(predecessors.ndim() == 2 && predecessors.shape(1) == gates.shape(2) &&
            successors.shape() == predecessors.shape(),
        "[walk] needs tables [V, r]");
  std::vector<mx::array> inputs = {mx::contiguous(anchors), mx::contiguous(candidates.ids),
                                   candidates.logits, gates, predecessors, successors};
  return mx::array::make_arrays({{shape[0], shape[1]}, shape}, {mx::int32, mx::float32},
                                std::make_shared<Walk>(cpu_stream()), inputs);
}

}  // namespace dflash
