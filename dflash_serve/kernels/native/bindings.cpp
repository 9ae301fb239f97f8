// The module dflash_serve.kernels._native: primitives for MLX's graphs on a CPU.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "attention.h"
#include "choice.h"
#include "drafting.h"
#include "elementwise.h"
#include "linear.h"
#include "mlx/version.h"
#include "qmm.h"
#include "rows.h"
#include "training.h"

namespace nb = nanobind;
namespace mx = mlx::core;

using dflash::ColumnLayout, dflash::Norm, dflash::RowRule;

NB_MODULE(_native, m) {
  m.attr("MLX_VERSION") = MLX_VERSION_NUMERIC;
  m.def("swiglu", &dflash::swiglu, nb::arg("gate"), nb::arg("up"));
  m.def("geglu", &dflash::geglu, nb::arg("gate"), nb::arg("up"));
  m.def("clipped_swiglu", &dflash::clipped_swiglu, nb::arg("gate"), nb::arg("up"),
        nb::arg("alpha"), nb::arg("limit"));
  nb::class_<Norm>(m, "Norm")
      .def(nb::init<std::optional<mx::array>, float, float>(), nb::arg("weight").none(),
           nb::arg("eps"), nb::arg("shift"));
  m.def("rms_norm", &dflash::rms_norm, nb::arg("x"), nb::arg("norm"));
  m.def("rotary", &dflash::rotary, nb::arg("x"), nb::arg("cos"), nb::arg("sin"),
        nb::arg("norm").none());
  m.def("argmax", &dflash::argmax, nb::arg("x"));
  m.def("linear", &dflash::linear, nb::arg("x"), nb::arg("weight"), nb::arg("bias").none());
  nb::class_<dflash::QuantisedMatrix>(m, "QuantisedMatrix")
      .def(nb::init<mx::array, mx::array, mx::array, int, int>(), nb::arg("words"),
           nb::arg("scales"), nb::arg("biases"), nb::arg("group"), nb::arg("bits"));
  m.def("quantised_product", &dflash::quantised_product, nb::arg("x"), nb::arg("matrix"));
  nb::class_<RowRule>(m, "RowRule")
      .def(nb::init<float, bool, int, int, int, bool>(), nb::kw_only(), nb::arg("scale"),
           nb::arg("causal"), nb::arg("window"), nb::arg("ring"), nb::arg("spare"),
           nb::arg("writes"));
  nb::class_<ColumnLayout>(m, "ColumnLayout")
      .def(nb::init<mx::array, mx::array, std::optional<mx::array>>(), nb::arg("depths"),
           nb::arg("sees"), nb::arg("lines").none());
  m.def("attend", &dflash::attend, nb::arg("queries"), nb::arg("keys"), nb::arg("values"),
        nb::arg("starts"), nb::arg("lengths"), nb::arg("caches"), nb::arg("rule"),
        nb::arg("sinks").none(), nb::arg("layout").none());
  m.def("write", &dflash::write, nb::arg("keys"), nb::arg("values"), nb::arg("starts"),
        nb::arg("lengths"), nb::arg("caches"), nb::arg("ring"));
  nb::class_<dflash::Draw>(m, "Draw")
      .def(nb::init<mx::array, mx::array>(), nb::arg("settings"), nb::arg("keys"));
  nb::class_<dflash::Drafted>(m, "Drafted")
      .def(nb::init<mx::array, mx::array>(), nb::arg("drafts"), nb::arg("lengths"));
  m.def("choose", &dflash::choose, nb::arg("logits"), nb::arg("draw").none(),
        nb::arg("drafted").none());
  m.def("convolve", &dflash::convolve, nb::arg("x"), nb::arg("base"), nb::arg("own"),
        nb::arg("side"));
  m.def("top", &dflash::top, nb::arg("x"), nb::arg("count"));
  nb::class_<dflash::Candidates>(m, "Candidates")
      .def(nb::init<mx::array, mx::array>(), nb::arg("ids"), nb::arg("logits"));
  nb::class_<dflash::Rescoring>(m, "Rescoring")
      .def(nb::init<mx::array, mx::array, mx::array>(), nb::arg("gates"),
           nb::arg("predecessors"), nb::arg("successors"));
  m.def("walk", &dflash::walk, nb::arg("anchors"), nb::arg("candidates"), nb::arg("rescoring"));
  m.def("cross_entropy", &dflash::cross_entropy, nb::arg("logits"), nb::arg("labels"));
  m.def("adamw", &dflash::adamw, nb::arg("gradient"), nb::arg("weight"), nb::arg("mean"),
        nb::arg("square"), nb::arg("settings"), nb::arg("beta1"), nb::arg("beta2"),
        nb::arg("eps"));
  m.def("sum_of_squares", &dflash::sum_of_squares, nb::arg("arrays"));
  nb::class_<dflash::BlockRule>(m, "BlockRule")
      .def(nb::init<float, bool, int>(), nb::arg("scale"), nb::arg("causal"), nb::arg("window"));
  nb::class_<dflash::KeysValues>(m, "KeysValues")
      .def(nb::init<mx::array, mx::array>(), nb::arg("keys"), nb::arg("values"));
  m.def("attend_blocks", &dflash::attend_blocks, nb::arg("queries"), nb::arg("own"),
        nb::arg("context"), nb::arg("anchors"), nb::arg("rule"));
}
