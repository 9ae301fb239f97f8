#include "choice.h"

#include "dflash_cpu.h"

namespace dflash {

namespace {

// logits, [settings, keys], [drafts, lengths]
class Choice : public CpuPrimitive {
 public:
  Choice(mx::Stream stream, bool draws, bool drafted)
      : CpuPrimitive(stream), draws_(draws), drafted_(drafted) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto& logits = inputs[0];
    auto& out = outputs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    dflash_choice job = {};
    job.rows = logits.shape(0);
    job.width = logits.shape(1);
    job.size = logits.shape(2);
    job.logits = logits.data<float>();
    job.tokens = out.data<int>();
    size_t at = 1;
    if (draws_) {
      job.settings = inputs[at++].data<float>();
      job.keys = inputs[at++].data<uint32_t>();
    }
    if (drafted_) {
      job.drafts = inputs[at++].data<int>();
      job.lengths = inputs[at++].data<int>();
    }
    mx::cpu::get_command_encoder(stream()).dispatch([job] { dflash_choose(&job); });
  }

  const char* name() const override { return "Choice"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& choice = static_cast<const Choice&>(other);
    return draws_ == choice.draws_ && drafted_ == choice.drafted_;
  }

 private:
  bool draws_, drafted_;
};

void check(const mx::array& array, const mx::Shape& shape, mx::Dtype dtype, const char* what) {
  if (array.shape() != shape || array.dtype() != dtype) {
    throw std::invalid_argument(std::string("[choose] wrong shape or type of ") + what);
  }
}

}  // namespace

mx::array choose(const mx::array& logits, const std::optional<Draw>& draw,
                 const std::optional<Drafted>& drafted) {
  check_float32("choose", logits);
  if (logits.ndim() != 3 || logits.shape(2) == 0) {
    throw std::invalid_argument("[choose] needs logits [rows, width, vocabulary]");
  }
  const int rows = logits.shape(0), width = logits.shape(1);
  std::vector<mx::array> inputs = {mx::contiguous(logits)};
  if (draw) {
    check(draw->settings, {rows, 4}, mx::float32, "settings");
    check(draw->keys, {rows, width, 2}, mx::uint32, "keys");
    inputs.push_back(mx::contiguous(draw->settings));
    inputs.push_back(mx::contiguous(draw->keys));
  }
  if (drafted) {
    check(drafted->drafts, {rows, width - 1}, mx::int32, "drafts");
    check(drafted->lengths, {rows}, mx::int32, "lengths");
    inputs.push_back(mx::contiguous(drafted->drafts));
    inputs.push_back(mx::contiguous(drafted->lengths));
  }
  auto primitive = std::make_shared<Choice>(cpu_stream(), draw.has_value(), drafted.has_value());
  return mx::array({rows, width}, mx::int32, primitive, inputs);
}

}  // namespace dflash
