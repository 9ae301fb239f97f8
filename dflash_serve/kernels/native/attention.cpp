#include "attention.h"

#include <cstring>

#include "dflash_cpu.h"

namespace dflash {

namespace {

// The last inputs of both primitives are the caches, and so are their last outputs.
struct Cached {
  const float* from;
  float* to;
  size_t bytes;
};

// Output caches in place of the inputs, or new ones that a task has to fill first.
std::vector<Cached> cached(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs,
                           size_t first_input, size_t first_output) {
  share_inputs(inputs, outputs);
  std::vector<Cached> all;
  for (size_t i = first_input; i < inputs.size(); ++i) {
    auto& out = outputs[first_output + i - first_input];
    allocate_or_take(inputs[i], out);
    all.push_back({inputs[i].data<float>(), out.data<float>(), out.nbytes()});
  }
  return all;
}

// Caches that are only read.
std::vector<Cached> as_they_are(const std::vector<mx::array>& inputs, size_t first) {
  std::vector<Cached> all;
  for (size_t i = first; i < inputs.size(); ++i) {
    auto* data = const_cast<float*>(inputs[i].data<float>());
    all.push_back({data, data, inputs[i].nbytes()});
  }
  return all;
}

void fill(const std::vector<Cached>& caches) {
  for (const auto& cache : caches) {
    if (cache.from != cache.to) {
      std::memcpy(cache.to, cache.from, cache.bytes);
    }
  }
}

// A job over keys and values [R, kv_heads, q, d] of any strides.
dflash_attention job_of(const mx::array& keys, const mx::array& values) {
  dflash_attention job = {};
  job.rows = keys.shape(0);
  job.kv_heads = keys.shape(1);
  job.columns = keys.shape(2);
  job.dim = keys.shape(3);
  job.k_head = keys.strides(1);
  job.k_column = keys.strides(2);
  job.k_dim = keys.strides(3);
  job.v_head = values.strides(1);
  job.v_column = values.strides(2);
  job.v_dim = values.strides(3);
  return job;
}

std::vector<attend_row> rows_of(const mx::array& keys, const mx::array& values,
                                const std::vector<Cached>& caches, const std::vector<int>& places,
                                int ring) {
  std::vector<attend_row> rows(keys.shape(0));
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].capacity = places[r];
    rows[r].ring = ring && places[r] == ring;
    rows[r].keys = caches[2 * r].to;
    rows[r].values = caches[2 * r + 1].to;
    rows[r].new_keys = keys.data<float>() + r * keys.strides(0);
    rows[r].new_values = values.data<float>() + r * values.strides(0);
  }
  return rows;
}

// What an evaluated task reads of the spans; the graph keeps both arrays alive.
class Spans {
 public:
  Spans(const mx::array& starts, const mx::array& lengths)
      : starts_(starts.data<int>()),
        lengths_(lengths.data<int>()),
        start_stride_(starts.strides(0)),
        length_stride_(lengths.strides(0)) {}

  void put(std::vector<attend_row>& rows) const {
    for (size_t r = 0; r < rows.size(); ++r) {
      rows[r].start = starts_[r * start_stride_];
      rows[r].length = lengths_[r * length_stride_];
    }
  }

 private:
  const int* starts_;
  const int* lengths_;
  ptrdiff_t start_stride_, length_stride_;
};

std::vector<int> places_of(const std::vector<mx::array>& caches, size_t first) {
  std::vector<int> places;
  for (size_t i = first; i < caches.size(); i += 2) {
    places.push_back(caches[i].shape(2));
  }
  return places;
}

std::vector<mx::Shape> with_caches(std::vector<mx::Shape> shapes,
                                   const std::vector<mx::array>& arrays, size_t first) {
  for (size_t i = first; i < arrays.size(); ++i) {
    shapes.push_back(arrays[i].shape());
  }
  return shapes;
}

class RowAttention : public CpuPrimitive {
 public:
  RowAttention(mx::Stream stream, RowRule rule, bool sinks, int levels, bool layout)
      : CpuPrimitive(stream), rule_(rule), sinks_(sinks), levels_(levels), layout_(layout) {}

  // queries, keys, values, starts, lengths, [sinks], [depths, sees, [lines]], caches
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto &queries = inputs[0], &keys = inputs[1], &values = inputs[2];
    size_t at = 5;
    auto job = job_of(keys, values);
    job.heads = queries.shape(1);
    job.q_head = queries.strides(1);
    job.q_column = queries.strides(2);
    job.q_dim = queries.strides(3);
    job.sinks = sinks_ ? inputs[at++].data<float>() : nullptr;
    job.scale = rule_.scale;
    job.causal = rule_.causal;
    job.window = rule_.window;
    job.spare = rule_.spare;
    job.writes = rule_.writes;
    job.levels = levels_;
    const auto* depths = layout_ ? inputs[at++].data<int>() : nullptr;
    const auto* sees = layout_ ? inputs[at++].data<unsigned char>() : nullptr;
    const auto* lines = levels_ ? inputs[at++].data<int>() : nullptr;
    auto& out = outputs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    auto caches = rule_.writes ? cached(inputs, outputs, at, 1) : as_they_are(inputs, at);
    auto rows = rows_of(keys, values, caches, places_of(inputs, at), rule_.ring);
    ptrdiff_t q = job.columns, each = q * job.heads * job.dim;
    for (size_t r = 0; r < rows.size(); ++r) {
      rows[r].queries = queries.data<float>() + r * queries.strides(0);
      rows[r].out = out.data<float>() + r * each;
      rows[r].depths = depths ? depths + r * q : nullptr;
      rows[r].sees = sees ? sees + r * q * q : nullptr;
      rows[r].lines = lines ? lines + r * q * levels_ : nullptr;
    }
    Spans spans(inputs[3], inputs[4]);
    mx::cpu::get_command_encoder(stream()).dispatch(
        [job, spans, rows = std::move(rows), caches = std::move(caches)]() mutable {
          fill(caches);
          spans.put(rows);
          job.row = rows.data();
          dflash_attend(&job);
        });
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    const auto& queries = inputs[0];
    mx::Shape out = {queries.shape(0), queries.shape(2), queries.shape(1), queries.shape(3)};
    size_t first = rule_.writes ? 5 + sinks_ + 2 * layout_ + (levels_ > 0) : inputs.size();
    return with_caches({out}, inputs, first);
  }

  const char* name() const override { return "RowAttention"; }

 private:
  RowRule rule_;
  bool sinks_;
  int levels_;
  bool layout_;
};

class RowWrite : public CpuPrimitive {
 public:
  RowWrite(mx::Stream stream, int ring) : CpuPrimitive(stream), ring_(ring) {}

  // keys, values, starts, lengths, caches
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto &keys = inputs[0], &values = inputs[1];
    auto job = job_of(keys, values);
    auto caches = cached(inputs, outputs, 4, 0);
    auto rows = rows_of(keys, values, caches, places_of(inputs, 4), ring_);
    Spans spans(inputs[2], inputs[3]);
    mx::cpu::get_command_encoder(stream()).dispatch(
        [job, spans, rows = std::move(rows), caches = std::move(caches)]() mutable {
          fill(caches);
          spans.put(rows);
          job.row = rows.data();
          dflash_write(&job);
        });
  }

  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return with_caches({}, inputs, 4);
  }

  const char* name() const override { return "RowWrite"; }

 private:
  int ring_;
};

void check_caches(const mx::array& keys, const mx::array& values, const mx::array& starts,
                  const mx::array& lengths, const std::vector<mx::array>& caches) {
  check(keys.ndim() == 4 && keys.shape() == values.shape(),
        "[attend] keys and values are [R, kv_heads, q, d], of one shape");
  size_t rows = keys.shape(0);
  check(starts.dtype() == mx::int32 && lengths.dtype() == mx::int32 && starts.shape() == mx::Shape{static_cast<int>(rows)} && lengths.shape() == starts.shape(),
        "[attend] starts and lengths are [R] int32");
  check(caches.size() == 2 * rows, "[attend] there are two caches per row");
  for (const auto& cache : caches) {
    check(cache.dtype() == mx::float32 && cache.ndim() == 4 && cache.shape(1) == keys.shape(1) &&
              cache.shape(3) == keys.shape(3),
          "[attend] caches are [1, kv_heads, capacity, d] float32");
  }
}

void append_contiguous(std::vector<mx::array>& inputs, const std::vector<mx::array>& arrays) {
  for (const auto& array : arrays) {
    inputs.push_back(mx::contiguous(array));
  }
}

std::vector<mx::array> made(const std::vector<mx::Shape>& first,
                            const std::vector<mx::array>& caches,
                            std::shared_ptr<mx::Primitive> primitive,
                            std::vector<mx::array> inputs) {
  auto shapes = with_caches(first, caches, 0);
  std::vector<mx::Dtype> types(shapes.size(), mx::float32);
  return mx::array::make_arrays(shapes, types, std::move(primitive), std::move(inputs));
}

}  // namespace

std::vector<mx::array> attend(const mx::array& queries, const mx::array& keys,
                              const mx::array& values, const mx::array& starts,
                              const mx::array& lengths, const std::vector<mx::array>& caches,
                              const RowRule& rule, const std::optional<mx::array>& sinks,
                              const std::optional<ColumnLayout>& layout) {
  for (const auto* array : {&queries, &keys, &values}) {
    check_float32("attend", *array);
  }
  check_caches(keys, values, starts, lengths, caches);
  int rows = queries.shape(0), heads = queries.shape(1), q = queries.shape(2), dim = queries.shape(3);
  check(queries.ndim() == 4 && rows == keys.shape(0) && q == keys.shape(2) &&
            dim == keys.shape(3) && heads % keys.shape(1) == 0,
        "[attend] queries are [R, heads, q, d], as keys and with a multiple of their heads");
  std::vector<mx::array> inputs = {queries, keys, values, starts, lengths};
  if (sinks) {
    check(static_cast<int>(sinks->size()) == heads, "[attend] there is one sink per head");
    inputs.push_back(mx::contiguous(mx::astype(*sinks, mx::float32)));
  }
  int levels = 0;
  if (layout) {
    check(q <= ATTEND_MOST_COLUMNS, "[attend] a layout has too many columns");
    check(layout->depths.shape() == mx::Shape{rows, q} && layout->depths.dtype() == mx::int32 &&
              layout->sees.shape() == mx::Shape{rows, q, q} && layout->sees.dtype() == mx::bool_,
          "[attend] a layout is depths [R, q] int32 and sees [R, q, q] bool");
    append_contiguous(inputs, {layout->depths, layout->sees});
    if (layout->lines) {
      check(layout->lines->ndim() == 3 && layout->lines->dtype() == mx::int32,
            "[attend] lines are [R, q, L] int32");
      levels = layout->lines->shape(2);
      inputs.push_back(mx::contiguous(*layout->lines));
    }
  }
  inputs.insert(inputs.end(), caches.begin(), caches.end());
  auto primitive = std::make_shared<RowAttention>(cpu_stream(), rule, sinks.has_value(), levels,
                                                  layout.has_value());
  auto written = rule.writes ? caches : std::vector<mx::array>();
  auto outputs = made({{rows, q, heads, dim}}, written, primitive, std::move(inputs));
  outputs[0] = mx::transpose(outputs[0], {0, 2, 1, 3});
  return outputs;
}

std::vector<mx::array> write(const mx::array& keys, const mx::array& values,
                             const mx::array& starts, const mx::array& lengths,
                             const std::vector<mx::array>& caches, int ring) {
  check_float32("write", keys);
  check_float32("write", values);
  check_caches(keys, values, starts, lengths, caches);
  std::vector<mx::array> inputs = {keys, values, starts, lengths};
  inputs.insert(inputs.end(), caches.begin(), caches.end());
  return made({}, caches, std::make_shared<RowWrite>(cpu_stream(), ring), std::move(inputs));
}

}  // namespace dflash
