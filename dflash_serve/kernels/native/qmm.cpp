#include "qmm.h"

#include "dflash_cpu.h"
#include "differentiable.h"

namespace dflash {

namespace {

int type_of(const mx::array& scales) {
  if (scales.dtype() == mx::float32) {
    return DFLASH_FLOAT32;
  }
  if (scales.dtype() == mx::float16) {
    return DFLASH_FLOAT16;
  }
  if (scales.dtype() == mx::bfloat16) {
    return DFLASH_BFLOAT16;
  }
  throw std::invalid_argument("[quantised_product] needs scales that are floats");
}

// Constants of a model, which hardly ever need it, stay out of its graphs.
mx::array in_order(const mx::array& array) {
  bool known = array.is_available() && array.flags().row_contiguous;
  return known ? array : mx::contiguous(array);
}

class QuantisedProduct : public CpuPrimitive {
 public:
  QuantisedProduct(mx::Stream stream, int group, int bits)
      : CpuPrimitive(stream), group_(group), bits_(bits) {}

  // x, words, scales, biases
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto &x = inputs[0], &words = inputs[1], &scales = inputs[2];
    auto& out = outputs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    dflash_quantised matrix = {words.data<uint32_t>(), scales.data<void>(),
                               inputs[3].data<void>(), type_of(scales), bits_, group_,
                               words.shape(0), x.shape(-1)};
    mx::cpu::get_command_encoder(stream()).dispatch(
        [matrix, from = row_major(stream(), x), to = out.data<float>(),
         rows = static_cast<int>(x.size() / x.shape(-1))] {
          dflash_quantised_product(&matrix, from, rows, to);
        });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>&) override {
    if (argnums != std::vector<int>{0}) {
      throw std::invalid_argument("[quantised_product] has no gradient of its matrix");
    }
    return {mx::quantized_matmul(cotangents[0], primals[1], primals[2], primals[3], false, group_,
                                 bits_)};
  }

  const char* name() const override { return "QuantisedProduct"; }

  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& same = static_cast<const QuantisedProduct&>(other);
    return group_ == same.group_ && bits_ == same.bits_;
  }

 private:
  int group_, bits_;
};

}  // namespace

mx::array quantised_product(const mx::array& x, const QuantisedMatrix& matrix) {
  check_float32("quantised_product", x);
  type_of(matrix.scales);
  int bits = matrix.bits, group = matrix.group;
  bool known = (bits == 4 || bits == 8) && group > 0 && group % 16 == 0 && x.ndim() > 0 &&
               matrix.words.ndim() == 2 && matrix.words.dtype() == mx::uint32;
  int columns = known ? matrix.words.shape(0) : 0, width = known ? x.shape(-1) : 0;
  mx::Shape scaled = {columns, known ? width / group : 0};
  if (!known || width == 0 || width % group || matrix.words.shape(1) != width / 32 * bits ||
      matrix.scales.shape() != scaled || matrix.biases.shape() != scaled ||
      matrix.biases.dtype() != matrix.scales.dtype()) {
    throw std::invalid_argument(
        "[quantised_product] needs words [N, K * bits / 32] of 4 or 8 bits, and scales and biases "
        "[N, K / group] for x [..., K]");
  }
  mx::Shape shape = x.shape();
  shape.back() = columns;
  return mx::array(shape, mx::float32,
                   std::make_shared<QuantisedProduct>(cpu_stream(), group, bits),
                   {x, in_order(matrix.words), in_order(matrix.scales), in_order(matrix.biases)});
}

}  // namespace dflash
