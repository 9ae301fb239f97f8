"""Runs Metal and CUDA kernel bodies on the CPU, each GPU thread as a fiber; needs g++ and Linux.

Drop-ins for ``mx.fast.metal_kernel`` and ``mx.fast.cuda_kernel``. It executes a kernel's logic; it
is no Metal or CUDA compiler, so a body that passes here can still be refused there.
"""

import ctypes
import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
Dims = tuple[int, int, int]
Stored = NDArray[np.generic]
Template = Sequence[tuple[str, int | bool | mx.Dtype]]

# dtype: (name in MSL, storage in numpy); bfloat16 travels as its bits
TYPES = {
    mx.bool_: ("bool", np.bool_),
    mx.int32: ("int32_t", np.int32),
    mx.uint32: ("uint32_t", np.uint32),
    mx.int64: ("int64_t", np.int64),
    mx.float32: ("float", np.float32),
    mx.float16: ("float16_t", np.float16),
    mx.bfloat16: ("bfloat16_t", np.uint16),
}

# What MLX declares when a body names it.
ATTRIBUTES = {
    "thread_position_in_grid": "self.origin + self.position",
    "thread_position_in_threadgroup": "self.position",
    "threadgroup_position_in_grid": "self.group",
    "threads_per_threadgroup": "self.group_extent",
    "threads_per_grid": "self.grid_extent",
    "threadgroups_per_grid": "self.groups_extent",
    "thread_index_in_threadgroup": "uint(self.index)",
    "thread_index_in_simdgroup": "uint(self.lane())",
    "simdgroup_index_in_threadgroup": "uint(self.index / gpu_sim::kSimdWidth)",
    "threads_per_simdgroup": "uint(gpu_sim::kSimdWidth)",
    "simdgroups_per_threadgroup": "uint((self.group_extent.count() + 31) / gpu_sim::kSimdWidth)",
}
CONSTANT_LIMIT = 8  # MLX passes smaller arrays in Metal's constant address space


class SimulationError(Exception):
    """The kernel broke a rule of the GPU: a partial barrier, an index out of range, ..."""


def compiler() -> str | None:
    """Path of g++, or None where the simulator cannot run: its fibers are those of Linux."""
    return shutil.which("g++") if sys.platform == "linux" else None


@dataclass(frozen=True)
class SimulatedKernel:
    """A kernel body and its argument names. ``seed`` draws the order of the threads' turns."""

    language: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    source: str
    header: str = ""
    seed: int = 0

    def __call__(
        self,
        *,
        inputs: list[mx.array],
        output_shapes: list[tuple[int, ...]],
        output_dtypes: list[mx.Dtype],
        grid: Dims,
        threadgroup: Dims,
        template: Template = (),
        init_value: float | None = None,
    ) -> list[mx.array]:
        """Runs the grid and returns the outputs; unwritten elements hold a marked pattern."""
        assert len(inputs) == len(self.input_names)
        assert len(output_shapes) == len(output_dtypes) == len(self.output_names)
        stored = [_stored(x) for x in inputs]
        outputs = [
            _empty(shape, dtype, init_value)
            for shape, dtype in zip(output_shapes, output_dtypes, strict=True)
        ]
        arrays = [*stored, *outputs]
        program = _compile(self._program(inputs, output_dtypes, template), f"{self.language}.h")
        message = program.launch(
            (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays)),
            (ctypes.c_size_t * len(arrays))(*(a.size for a in arrays)),
            np.array([_padded(a.shape) for a in stored], np.int32).ctypes.data_as(ctypes.c_void_p),
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*threadgroup),
            self.seed,
        )
        if message:
            raise SimulationError(message.decode())
        return [_as_mx(a, dtype) for a, dtype in zip(outputs, output_dtypes, strict=True)]

    def _program(
        self, inputs: list[mx.array], output_dtypes: list[mx.Dtype], template: Template
    ) -> str:
        """The C++ translation unit: header, the body in a function, and its entry point."""
        bind = []
        for i, (name, x) in enumerate(zip(self.input_names, inputs, strict=True)):
            bind += self._bind_input(i, name, x)
        for i, (name, dtype) in enumerate(zip(self.output_names, output_dtypes, strict=True)):
            bind.append(_bind_view(len(inputs) + i, name, TYPES[dtype][0], "true"))
        if self.language == "metal":
            bind += [
                f"const auto {name} = {value};"
                for name, value in ATTRIBUTES.items()
                if name in self.source
            ]
        bind += [_bind_template(name, value) for name, value in template]
        whole_groups = "true" if self.language == "cuda" else "false"
        return "\n".join(
            [
                f'#include "{self.language}.h"',
                self.header,
                "static void body([[maybe_unused]] const gpu_sim::Arguments& call) {",
                "[[maybe_unused]] const auto& self = gpu_sim::self();",
                *bind,
                '#line 1 "kernel"',
                self.source,
                "}",
                'extern "C" const char* launch(void** data, const size_t* sizes,',
                "    const int (*shapes)[8], const unsigned* grid, const unsigned* group,",
                "    unsigned seed) {",
                "  const gpu_sim::Arguments call{data, sizes, shapes};",
                f"  return gpu_sim::launch(grid, group, {whole_groups}, seed, body, call);",
                "}",
            ]
        )

    def _bind_input(self, i: int, name: str, x: mx.array) -> list[str]:
        """C++ names of input ``i``, and of its shape, strides and ndim when the body says them."""
        metal = self.language == "metal"
        kind = TYPES[x.dtype][0]
        if metal and x.ndim == 0:
            return [f"const {kind}& {name} = *static_cast<const {kind}*>(call.data[{i}]);"]
        in_device = "false" if metal and x.size < CONSTANT_LIMIT else "true"
        bind = [_bind_view(i, name, f"const {kind}", in_device)]
        if f"{name}_shape" in self.source:
            bind.append(f"const auto {name}_shape = call.shapes[{i}];")
        if f"{name}_strides" in self.source:
            strides = np.cumprod([1, *reversed(x.shape[1:])])[::-1]
            values = ", ".join(str(s) for s in strides)
            bind.append(f"const int64_t {name}_strides[]{{{values}}};")
        if f"{name}_ndim" in self.source:
            bind.append(f"const int {name}_ndim = {x.ndim};")
        return bind


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    *,
    seed: int = 0,
) -> SimulatedKernel:
    """``mx.fast.metal_kernel``, executed here; inputs are made row contiguous as there."""
    return SimulatedKernel("metal", tuple(input_names), tuple(output_names), source, header, seed)


def cuda_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    *,
    seed: int = 0,
) -> SimulatedKernel:
    """``mx.fast.cuda_kernel``, executed here; the grid counts threads, in whole blocks."""
    return SimulatedKernel("cuda", tuple(input_names), tuple(output_names), source, header, seed)


def _bind_view(i: int, name: str, kind: str, in_device: str) -> str:
    return (
        f"[[maybe_unused]] gpu_sim::View<{kind}, {in_device}> "
        f"{name}{{static_cast<{kind}*>(call.data[{i}]), long(call.sizes[{i}])}};"
    )


def _bind_template(name: str, value: int | bool | mx.Dtype) -> str:
    if isinstance(value, mx.Dtype):
        return f"using {name} = {TYPES[value][0]};"
    kind, text = ("bool", str(value).lower()) if isinstance(value, bool) else ("int", str(value))
    return f"constexpr {kind} {name} = {text};"


def _padded(shape: tuple[int, ...]) -> list[int]:
    return [*shape, *[0] * (8 - len(shape))]


def _stored(x: mx.array) -> Stored:
    bits = x.view(mx.uint16) if x.dtype == mx.bfloat16 else x
    return np.ascontiguousarray(np.array(bits))


def _empty(shape: tuple[int, ...], dtype: mx.Dtype, init_value: float | None) -> Stored:
    if init_value is not None:
        return _stored(mx.full(shape, init_value, dtype=dtype))
    raw: Stored = np.empty(shape, TYPES[dtype][1])
    raw.view(np.uint8).fill(0x5A)
    return raw


def _as_mx(stored: Stored, dtype: mx.Dtype) -> mx.array:
    x = mx.array(stored)
    return x.view(mx.bfloat16) if dtype == mx.bfloat16 else x


@functools.cache
def _build_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gpu-sim-")


@functools.cache
def _scheduler_object() -> Path:
    built = Path(_build_directory().name) / "fibers.o"
    _run_compiler("-c", str(HERE / "fibers.cpp"), "-o", str(built))
    return built


@functools.cache
def _parsed_header(name: str) -> Path:
    """A folder with a header that g++ reads parsed: half of a program's time goes into it."""
    folder = Path(_build_directory().name) / "parsed"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#include "{HERE / name}"\n')
    _run_compiler("-x", "c++-header", str(folder / name), "-o", str(folder / f"{name}.gch"))
    return folder


@functools.cache
def _compile(program: str, header: str) -> ctypes.CDLL:
    stem = Path(_build_directory().name) / hashlib.sha256(program.encode()).hexdigest()
    source, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
    source.write_text(program)
    parsed = ("-I", str(_parsed_header(header)))
    _run_compiler(*parsed, "-shared", str(source), str(_scheduler_object()), "-o", str(library))
    loaded = ctypes.CDLL(str(library))
    loaded.launch.restype = ctypes.c_char_p
    return loaded


def _run_compiler(*arguments: str) -> None:
    gxx = compiler()
    assert gxx is not None, "the simulator needs g++ on Linux"
    command = [gxx, "-std=c++20", "-O1", "-fPIC", "-I", str(HERE), *arguments]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        raise SimulationError(built.stderr)
