// The module dflash_serve.kernels._native: primitives for MLX's graphs on a CPU.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "elementwise.h"
#include "mlx/version.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  m.attr("MLX_VERSION") = MLX_VERSION_NUMERIC;
  m.def("swiglu", &dflash::swiglu, nb::arg("gate"), nb::arg("up"));
}
