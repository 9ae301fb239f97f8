"""Gated units, norms, rotations and argmax on CPUs: MLX's results, and one result per number."""

import ctypes
import sys
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.kernels.argmax import argmax
from dflash_serve.kernels.gated_units import (
    clipped_swiglu,
    geglu,
    plain_clipped_swiglu,
    plain_geglu,
    plain_swiglu,
    swiglu,
)
from dflash_serve.kernels.native import native
from dflash_serve.kernels.rms_norm import rms_norm
from dflash_serve.kernels.rotation import HeadNorm, rotate
from tests.kernels.cpu_library import CpuLibrary

linux = pytest.mark.skipif(sys.platform != "linux", reason="the library is built on Linux alone")
Unit = Callable[[mx.array, mx.array], mx.array]

UNITS: dict[str, tuple[Unit, Unit]] = {
    "swiglu": (swiglu, plain_swiglu),
    "geglu": (geglu, plain_geglu),
    "clipped": (clipped_swiglu, lambda g, u: plain_clipped_swiglu(g, u, 1.702, 7.0)),
}
C_UNITS: dict[str, tuple[float, ...]] = {
    "dflash_swiglu": (),
    "dflash_geglu": (),
    "dflash_clipped_swiglu": (1.702, 7.0),
}


def normal(*shape: int, seed: int = 0) -> mx.array:
    return 3 * mx.random.normal(shape, key=mx.random.key(seed))


def close(got: mx.array, want: mx.array, ulps: int) -> bool:
    """Within some units in the last place of the numbers, or of a thousandth of the largest."""
    bound = ulps * 2.0**-23 * mx.maximum(mx.abs(want), 1e-3 * mx.abs(want).max())
    return bool(mx.all(mx.abs(got - want) <= bound).item())


@pytest.mark.parametrize("unit", UNITS)
def test_gated_units_are_mlx_s(unit: str) -> None:
    """To the bit, but for gelu's hyperbolic tangent."""
    own, plain = UNITS[unit]
    gate = mx.concatenate([normal(70001), mx.linspace(-110, 110, 20001)])
    up = normal(gate.size, seed=1)
    got, want = own(gate, up), plain(gate, up)
    assert close(got, want, ulps=100) if unit == "geglu" else mx.array_equal(got, want).item()


@pytest.mark.parametrize("unit", UNITS)
def test_gated_units_of_extremes(unit: str) -> None:
    """No number overflows on the way, and NaN stays."""
    own, plain = UNITS[unit]
    gate = mx.array([-1e30, -200.0, -90.0, -0.0, 0.0, 90.0, 200.0, 1e12, mx.nan])
    want = plain(gate, mx.ones_like(gate))
    assert mx.allclose(own(gate, mx.ones_like(gate)), want, atol=1e-30, equal_nan=True).item()


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("width", [1, 15, 64, 100, 192, 1000])
def test_norms_are_mlx_s(width: int, shift: float) -> None:
    """To the bit."""
    x, weight = normal(3, 5, width), normal(width, seed=1)
    want = mx.fast.rms_norm(x, weight + shift, 1e-5)
    assert mx.array_equal(rms_norm(x, weight, 1e-5, shift), want).item()


@pytest.mark.parametrize("half", [1, 8, 20, 24])
def test_rotation_is_the_plain_one(half: int) -> None:
    """To the bit, of heads in either order; a norm before it changes nothing in them."""
    x = normal(2, 5, 3, 48).swapaxes(1, 2)
    angles = normal(2, 1, 5, half, seed=1)
    cos, sin = mx.cos(angles), mx.sin(angles)
    left, right = x[..., :half], x[..., half : 2 * half]
    want = mx.concatenate(
        [left * cos - right * sin, left * sin + right * cos, x[..., 2 * half :]], axis=-1
    )
    assert mx.array_equal(rotate(x, cos, sin), want).item()
    assert mx.array_equal(rotate(mx.contiguous(x), cos, sin), want).item()
    norm = HeadNorm(normal(48, seed=2), 1e-6)
    normed = rotate(rms_norm(x, norm.weight, norm.eps), cos, sin)
    assert mx.array_equal(rotate(x, cos, sin, norm), normed).item()


ROWS = [
    [3.0, 5.0, 5.0, 1.0],
    [mx.nan, 1.0, 2.0, 3.0],
    [1.0, mx.nan, 2.0, mx.nan],
    [-mx.inf, -mx.inf, mx.nan, 0.0],
    [-mx.inf] * 4,
    [mx.inf, -1.0, mx.inf, 2.0],
]


@pytest.mark.parametrize("behind", [0, 13, 60])
def test_argmax_is_mlx_s(behind: int) -> None:
    """With equal numbers, infinities and NaN; wherever they stand."""
    for front in (0, 29):
        low = [-mx.inf] * front
        x = mx.array([low + row + [-mx.inf] * behind for row in ROWS])
        assert mx.array_equal(argmax(x), mx.argmax(x, axis=-1)).item()
    ties = mx.round(normal(4, 9, 301))
    assert mx.array_equal(argmax(ties), mx.argmax(ties, axis=-1)).item()


def test_rows_are_the_same_alone() -> None:
    """And in parts of an array that are not contiguous, and traced."""
    x, weight = normal(70, 2, 300), normal(100, seed=1)
    left, middle, right = mx.split(x, 3, axis=-1)

    def run(a: mx.array, b: mx.array, c: mx.array) -> list[mx.array]:
        units = [own(a, b) for own, _ in UNITS.values()]
        return [*units, rms_norm(c, weight, 1e-6), argmax(b)]

    together = run(left, middle, right)
    for other in (
        mx.compile(run)(left, middle, right),
        run(*map(mx.contiguous, (left, middle, right))),
    ):
        assert all(mx.array_equal(a, b).item() for a, b in zip(together, other, strict=True))
    for row in (0, 33, 69):
        alone = run(*(part[row] for part in (left, middle, right)))
        assert all(mx.array_equal(a[row], b).item() for a, b in zip(together, alone, strict=True))


def test_empty_arrays_are_served() -> None:
    empty = mx.zeros((0, 8))
    assert swiglu(empty, empty).shape == (0, 8)
    assert rms_norm(empty, mx.ones((8,)), 1e-6).shape == (0, 8)
    tables = mx.zeros((0, 1, 3, 4))
    assert rotate(mx.zeros((0, 2, 3, 8)), tables, tables).shape == (0, 2, 3, 8)
    mx.eval(swiglu(empty, empty), rms_norm(empty, mx.ones((8,)), 1e-6))


def test_inputs_keep_their_numbers() -> None:
    """A result may take an input's memory only where nobody reads it any more."""
    x, up, weight = normal(4, 64), normal(4, 64, seed=1), mx.ones((64,))
    held = mx.array(x)
    mx.eval(x, held, swiglu(x, up), rms_norm(x, weight, 1e-6))
    assert mx.array_equal(x, held).item()


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_other_dtypes_stay_mlx_s_own(dtype: mx.Dtype) -> None:
    gate, up, weight = (array.astype(dtype) for array in (normal(3, 8), normal(3, 8), normal(8)))
    for own, plain in UNITS.values():
        assert mx.array_equal(own(gate, up), plain(gate, up)).item()
    assert mx.array_equal(rms_norm(gate, weight, 1e-6), mx.fast.rms_norm(gate, weight, 1e-6)).item()
    assert argmax(gate).dtype == mx.int32


def test_the_extension_refuses_what_it_cannot_compute() -> None:
    module = native(mx.zeros((1,)))
    if module is None:
        pytest.skip("this installation has no extension")
    x, half = normal(2, 8), normal(2, 8).astype(mx.float16)
    for wrong in (
        lambda: module.swiglu(x, half),
        lambda: module.geglu(x, x[:1]),
        lambda: module.rms_norm(half, module.Norm(None, 1e-6, 0.0)),
        lambda: module.rms_norm(x, module.Norm(normal(7), 1e-6, 0.0)),
        lambda: module.rotary(normal(1, 2, 3, 8), normal(1, 1, 3, 5), normal(1, 1, 3, 5), None),
        lambda: module.rotary(x, x, x, None),
        lambda: module.argmax(half),
        lambda: module.argmax(mx.zeros((2, 0))),
    ):
        with pytest.raises(ValueError, match=r"needs|one weight per column"):
            wrong()


def _grads(run: Callable[..., mx.array], *arrays: mx.array) -> list[mx.array]:
    toward = mx.sin(mx.arange(run(*arrays).size)).reshape(run(*arrays).shape)
    return mx.grad(lambda *given: (toward * run(*given)).sum(), tuple(range(len(arrays))))(*arrays)


def test_gradients_are_those_of_plain_operations() -> None:
    """Drafters are trained with the code that serves them."""
    gate, up, weight = normal(5, 40), normal(5, 40, seed=1), normal(40, seed=2)
    pairs: list[tuple[Callable[..., mx.array], Callable[..., mx.array], list[mx.array]]] = [
        (own, plain, [gate, up]) for own, plain in UNITS.values()
    ]
    pairs.append(
        (
            lambda x, w: rms_norm(x, w, 1e-5, 1.0),
            lambda x, w: mx.fast.rms_norm(x, w + 1.0, 1e-5),
            [gate, weight],
        )
    )
    angles = mx.arange(15.0).reshape(1, 1, 5, 3)
    tables, heads = (mx.cos(angles), mx.sin(angles)), normal(1, 2, 5, 8)

    def turned(x: mx.array, w: mx.array) -> mx.array:
        x, (cos, sin) = mx.fast.rms_norm(x, w, 1e-5), tables
        left, right = x[..., :3], x[..., 3:6]
        return mx.concatenate([left * cos - right * sin, left * sin + right * cos, x[..., 6:]], -1)

    pairs.append((lambda x, w: rotate(x, *tables, HeadNorm(w, 1e-5)), turned, [heads, normal(8)]))
    for own, plain, arrays in pairs:
        for got, want in zip(_grads(own, *arrays), _grads(plain, *arrays), strict=True):
            assert mx.allclose(got, want, rtol=1e-5, atol=1e-5).item()


@linux
@pytest.mark.parametrize("unit", C_UNITS)
def test_a_number_has_one_result_wherever_it_stands(library: CpuLibrary, unit: str) -> None:
    """In a vector or in the rest behind it, in any thread's part, at any offset."""
    options = C_UNITS[unit]
    gate, up = np.random.default_rng(0).normal(size=(2, 70001)).astype(np.float32) * 4
    whole = np.empty_like(gate)
    library.set_threads(1)
    library.call(unit, gate, up, whole, len(gate), *options)
    assert np.isfinite(whole).all()
    for threads in (2, 3):
        library.set_threads(threads)
        again = np.empty_like(gate)
        library.call(unit, gate, up, again, len(gate), *options)
        assert np.array_equal(again, whole)
    for first, count in ((1, 1), (3, 16), (5, 31), (11, 1000)):
        part = np.full(count + 1, 7, np.float32)
        library.call(unit, gate[first:], up[first:], part, count, *options)
        assert np.array_equal(part[:count], whole[first : first + count])
        assert part[count] == 7


class Norm(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("eps", ctypes.c_float), ("shift", ctypes.c_float))


@linux
@pytest.mark.parametrize("width", [5, 64, 203])
def test_a_row_has_one_result_with_any_threads(library: CpuLibrary, width: int) -> None:
    x = np.random.default_rng(0).normal(size=(400, width)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=width).astype(np.float32)
    norm = ctypes.byref(Norm(weight.ctypes.data, 1e-6, 0.5))
    wide = x.astype(np.float64)
    want = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-6) * (weight + 0.5)
    for threads in (1, 2, 3):
        library.set_threads(threads)
        normed, best = np.empty_like(x), np.empty(400, np.int32)
        library.call("dflash_rms_norm", norm, x, normed, 400, width)
        library.call("dflash_argmax", x, best, 400, width)
        assert np.allclose(normed, want, rtol=1e-6, atol=1e-7)
        assert np.array_equal(best, x.argmax(axis=1))
        for row in (0, 7, 399):
            alone = np.empty((1, width), np.float32)
            library.call("dflash_rms_norm", norm, x[row:], alone, 1, width)
            assert np.array_equal(alone[0], normed[row])
