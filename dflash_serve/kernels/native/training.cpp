#include "training.h"

#include "dflash_train.h"
#include "differentiable.h"

namespace dflash {

namespace {

float* allocate(mx::array& out) {
  out.set_data(mx::allocator::malloc(out.nbytes()));
  return out.data<float>();
}

const int* labels_of(mx::Stream stream, const mx::array& labels) {
  return reinterpret_cast<const int*>(row_major(stream, labels));
}

class EntropyGrad : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // logits, labels, log_sums, to_losses
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const float* logits = row_major(stream(), inputs[0]);
    const int* labels = labels_of(stream(), inputs[1]);
    const float *log_sums = row_major(stream(), inputs[2]);
    const float* to_losses = row_major(stream(), inputs[3]);
    auto& out = outputs[0];
    allocate_or_take(inputs[0], out);
    int width = out.shape(-1);
    mx::cpu::get_command_encoder(stream()).dispatch(
        [logits, labels, log_sums, to_losses, to = out.data<float>(), width,
         rows = static_cast<ptrdiff_t>(inputs[1].size())] {
          dflash_entropy_grad(logits, labels, log_sums, to_losses, to, rows, width);
        });
  }

  const char* name() const override { return "EntropyGrad"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

class Entropy : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // logits, labels -> losses, log_sums
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const float* logits = row_major(stream(), inputs[0]);
    const int* labels = labels_of(stream(), inputs[1]);
    float *losses = allocate(outputs[0]), *log_sums = allocate(outputs[1]);
    mx::cpu::get_command_encoder(stream()).dispatch(
        [logits, labels, losses, log_sums, width = inputs[0].shape(-1),
         rows = static_cast<ptrdiff_t>(inputs[1].size())] {
          dflash_entropy(logits, labels, losses, log_sums, rows, width);
        });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>& outputs) override {
    check(argnums == std::vector<int>{0}, "[cross_entropy] labels have no gradient");
    return {mx::array(primals[0].shape(), mx::float32, std::make_shared<EntropyGrad>(stream()),
                      {primals[0], primals[1], outputs[1], cotangents[0]})};
  }

  const char* name() const override { return "Entropy"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

class AdamW : public CpuPrimitive {
 public:
  AdamW(mx::Stream stream, float beta1, float beta2, float eps)
      : CpuPrimitive(stream), betas_{beta1, beta2}, eps_(eps) {}

  // gradient, weight, mean, square, settings -> weight, mean, square
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    dflash_adamw job = {};
    job.gradient = row_major(stream(), inputs[0]);
    job.weight = row_major(stream(), inputs[1]);
    job.mean = row_major(stream(), inputs[2]);
    job.square = row_major(stream(), inputs[3]);
    job.settings = row_major(stream(), inputs[4]);
    job.betas[0] = betas_[0];
    job.betas[1] = betas_[1];
    job.eps = eps_;
    share_inputs(inputs, outputs);
    for (int i = 0; i < 3; ++i) {
      allocate_or_take(inputs[i + 1], outputs[i]);
    }
    job.new_weight = outputs[0].data<float>();
    job.new_mean = outputs[1].data<float>();
    job.new_square = outputs[2].data<float>();
    mx::cpu::get_command_encoder(stream()).dispatch(
        [job, count = static_cast<ptrdiff_t>(outputs[0].size())] {
          dflash_adamw_step(&job, count);
        });
  }

  const char* name() const override { return "AdamW"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const AdamW&>(other);
    return betas_[0] == same.betas_[0] && betas_[1] == same.betas_[1] && eps_ == same.eps_;
  }

 private:
  float betas_[2], eps_;
};

class SumOfSquares : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    std::vector<std::pair<const float*, ptrdiff_t>> parts;
    for (const auto& input : inputs) {
      // the order of the numbers does not matter
      const float* x = input.flags().contiguous ? input.data<float>() : row_major(stream(), input);
      parts.emplace_back(x, static_cast<ptrdiff_t>(input.size()));
    }
    mx::cpu::get_command_encoder(stream()).dispatch([parts, to = allocate(outputs[0])] {
      double sum = 0;
      for (const auto& [x, count] : parts) {
        sum += dflash_sum_of_squares(x, count);
      }
      *to = static_cast<float>(sum);
    });
  }

  const char* name() const override { return "SumOfSquares"; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
};

// The inputs of attention over blocks: queries, own keys and values, the context's, anchors.
class Blocks : public CpuPrimitive {
 public:
  Blocks(mx::Stream stream, const BlockRule& rule) : CpuPrimitive(stream), rule_(rule) {}

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const Blocks&>(other).rule_;
    return rule_.scale == same.scale && rule_.causal == same.causal && rule_.window == same.window;
  }

 protected:
  dflash_blocks job_of(const std::vector<mx::array>& inputs) {
    dflash_blocks job = {};
    job.queries = heads_of(stream(), inputs[0]);
    job.own_keys = heads_of(stream(), inputs[1]);
    job.own_values = heads_of(stream(), inputs[2]);
    job.keys = heads_of(stream(), inputs[3]);
    job.values = heads_of(stream(), inputs[4]);
    job.anchors = labels_of(stream(), inputs[5]);
    job.blocks = inputs[5].shape(1);
    job.causal = rule_.causal;
    job.window = rule_.window;
    job.scale = rule_.scale;
    return job;
  }

  BlockRule rule_;
};

class AttendBlocksGrad : public Blocks {
 public:
  using Blocks::Blocks;

  // ..., log_sums, to_out -> the gradients of the first five
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto job = job_of(inputs);
    job.log_sums = const_cast<float*>(row_major(stream(), inputs[6]));
    job.to_out = row_major(stream(), inputs[7]);
    job.to_queries = allocate_as_projected(outputs[0]);
    job.to_own_keys = allocate_as_projected(outputs[1]);
    job.to_own_values = allocate_as_projected(outputs[2]);
    job.to_keys = allocate(outputs[3]);
    job.to_values = allocate(outputs[4]);
    mx::cpu::get_command_encoder(stream()).dispatch([job] { dflash_attend_blocks_grad(&job); });
  }

  const char* name() const override { return "AttendBlocksGrad"; }
};

class AttendBlocks : public Blocks {
 public:
  using Blocks::Blocks;

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto job = job_of(inputs);
    job.out = allocate(outputs[0]);
    job.log_sums = allocate(outputs[1]);
    mx::cpu::get_command_encoder(stream()).dispatch([job] { dflash_attend_blocks(&job); });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>& outputs) override {
    std::vector<mx::array> inputs = primals;
    inputs.push_back(outputs[1]);
    inputs.push_back(cotangents[0]);
    std::vector<mx::Shape> shapes;
    for (int i = 0; i < 5; ++i) {
      shapes.push_back(primals[i].shape());
    }
    auto all = mx::array::make_arrays(shapes, std::vector<mx::Dtype>(5, mx::float32),
                                      std::make_shared<AttendBlocksGrad>(stream(), rule_), inputs);
    std::vector<mx::array> wanted;
    for (int index : argnums) {
      check(index < 5, "[attend_blocks] anchors have no gradient");
      wanted.push_back(all[index]);
    }
    return wanted;
  }

  const char* name() const override { return "AttendBlocks"; }
};

}  // namespace

mx::array cross_entropy(const mx::array& logits, const mx::array& labels) {
  check_float32("cross_entropy", logits);
  check(logits.ndim() > 0 && labels.dtype() == mx::int32 &&
            labels.shape() == mx::Shape(logits.shape().begin(), logits.shape().end() - 1),
        "[cross_entropy] needs logits [..., V] and labels [...] int32");
  return mx::array::make_arrays({labels.shape(), labels.shape()}, {mx::float32, mx::float32},
                                std::make_shared<Entropy>(cpu_stream()), {logits, labels})[0];
}

std::vector<mx::array> adamw(const mx::array& gradient, const mx::array& weight,
                             const mx::array& mean, const mx::array& square,
                             const mx::array& settings, float beta1, float beta2, float eps) {
  for (const auto* array : {&gradient, &weight, &mean, &square}) {
    check_float32("adamw", *array);
    check(array->shape() == weight.shape(), "[adamw] needs arrays of one shape");
  }
  check_float32("adamw", settings);
  check(settings.shape() == mx::Shape{4}, "[adamw] needs four settings");
  return mx::array::make_arrays({weight.shape(), weight.shape(), weight.shape()},
                                {mx::float32, mx::float32, mx::float32},
                                std::make_shared<AdamW>(cpu_stream(), beta1, beta2, eps),
                                {gradient, weight, mean, square, settings});
}

mx::array sum_of_squares(const std::vector<mx::array>& arrays) {
  for (const auto& array : arrays) {
    check_float32("sum_of_squares", array);
  }
  return mx::array(mx::Shape{}, mx::float32, std::make_shared<SumOfSquares>(cpu_stream()), arrays);
}

mx::array attend_blocks(const mx::array& queries, const KeysValues& own, const KeysValues& context,
                        const mx::array& anchors, const BlockRule& rule) {
  for (const auto* array : {&queries, &own.keys, &own.values, &context.keys, &context.values}) {
    check_float32("attend_blocks", *array);
    check(array->ndim() == 4, "[attend_blocks] needs [R, heads, q, dim]");
  }
  int rows = queries.shape(0), heads = queries.shape(1), block = queries.shape(2);
  int dim = queries.shape(3), kv = context.keys.shape(1), sequences = context.keys.shape(0);
  mx::Shape inside = {rows, kv, block, dim};
  check(anchors.dtype() == mx::int32 && anchors.ndim() == 2 && anchors.shape(0) == sequences &&
            static_cast<int>(anchors.size()) == rows && kv > 0 && heads % kv == 0,
        "[attend_blocks] needs an anchor for each block of queries");
  check(own.keys.shape() == inside && own.values.shape() == inside &&
            context.values.shape() == context.keys.shape() && context.keys.shape(3) == dim,
        "[attend_blocks] needs keys and values of the queries' sizes");
  return mx::array::make_arrays({{rows, block, heads, dim}, {rows, heads, block}},
                                {mx::float32, mx::float32},
                                std::make_shared<AttendBlocks>(cpu_stream(), rule),
                                {queries, own.keys, own.values, context.keys, context.values,
                                 anchors})[0];
}

}  // namespace dflash
