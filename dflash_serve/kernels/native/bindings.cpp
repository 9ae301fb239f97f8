// The module dflash_serve.kernels._native: primitives for MLX's graphs on a CPU.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "attention.h"
#include "elementwise.h"
#include "mlx/version.h"

namespace nb = nanobind;
namespace mx = mlx::core;

using dflash::ColumnLayout, dflash::RowRule;

NB_MODULE(_native, m) {
  m.attr("MLX_VERSION") = MLX_VERSION_NUMERIC;
  m.def("swiglu", &dflash::swiglu, nb::arg("gate"), nb::arg("up"));
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
        nb::arg("lengths"), nb::arg("caches"), nb::arg("ring"), nb::arg("path").none());
}
