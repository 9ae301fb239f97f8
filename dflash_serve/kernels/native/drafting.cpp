#include "drafting.h"

#include "dflash_cpu.h"
#include "differentiable.h"

namespace dflash {

namespace {

class Convolution : public Differentiable {
 public:
  Convolution(mx::Stream stream, int side) : Differentiable(stream), side_(side) {}

  // x, base, own
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto &x = inputs[0], &own = inputs[2];
    auto& out = outputs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    dflash_convolution job = {};
    job.columns = x.shape(1);
    job.hidden = x.shape(2);
    job.taps = own.shape(3);
    job.groups = own.shape(4);
    job.rows = ptrdiff_t(x.shape(0)) * job.columns;
    job.own_stride = ptrdiff_t(own.shape(2)) * job.taps * job.groups;
    job.x = row_major(stream(), x);
    job.base = row_major(stream(), inputs[1]) + ptrdiff_t(side_) * job.taps * job.hidden;
    job.own = row_major(stream(), own) + ptrdiff_t(side_) * job.taps * job.groups;
    job.out = out.data<float>();
    mx::cpu::get_command_encoder(stream()).dispatch([job] { dflash_convolve(&job); });
  }

  std::vector<mx::array> gradients(const std::vector<mx::array>& inputs,
                                   const mx::array& to_out) const override {
    auto form = [this](const std::vector<mx::array>& given) {
      return std::vector<mx::array>{plain(given[0], given[1], given[2])};
    };
    return mx::vjp(form, inputs, {to_out}).second;
  }

  const char* name() const override { return "Convolution"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    return side_ == static_cast<const Convolution&>(other).side_;
  }

 private:
  mx::array plain(const mx::array& x, const mx::array& base, const mx::array& own) const {
    int blocks = x.shape(0), length = x.shape(1), hidden = x.shape(2);
    int taps = own.shape(3), groups = own.shape(4), size = hidden / groups;
    auto grouped = mx::reshape(x, {blocks, length, groups, size});
    auto kernel = mx::reshape(mx::take(base, side_, 0), {taps, groups, size}) +
                  mx::expand_dims(mx::take(own, side_, 2), -1);
    auto out = mx::take(kernel, 0, 2) * grouped;
    for (int tap = 1; tap < std::min(taps, length); ++tap) {
      auto earlier = mx::slice(grouped, {0, 0, 0, 0}, {blocks, length - tap, groups, size});
      out = out + mx::take(kernel, tap, 2) *
                      mx::pad(earlier, {{0, 0}, {tap, 0}, {0, 0}, {0, 0}});
    }
    return mx::reshape(out, x.shape());
  }

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
