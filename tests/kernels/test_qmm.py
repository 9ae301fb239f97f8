"""The CPU's product with quantised matrices: the bits of the product with the float32 form."""

import ctypes
import sys

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.kernels.native import native
from dflash_serve.kernels.qmm import has_own, quantised_matmul
from dflash_serve.kernels.verify_qmm import QuantisedWeight, verify_qmm_reference
from tests.kernels.cpu_library import CpuLibrary

linux = pytest.mark.skipif(sys.platform != "linux", reason="the library is built on Linux alone")
DTYPES = (mx.float32, mx.float16, mx.bfloat16)


def matrix(
    columns: int, width: int, bits: int = 4, group: int = 64, dtype: mx.Dtype = mx.float32
) -> QuantisedWeight:
    table = mx.random.normal((columns, width), key=mx.random.key(columns + width))
    parts = mx.quantize(table.astype(dtype), group, bits)
    mx.eval(parts)
    return QuantisedWeight(*parts, group, bits)


def expanded(weight: QuantisedWeight) -> mx.array:
    scales, biases = weight.scales.astype(mx.float32), weight.biases.astype(mx.float32)
    return mx.dequantize(weight.words, scales, biases, weight.group_size, weight.bits)


def rows(count: int, width: int) -> mx.array:
    return mx.random.normal((count, width), key=mx.random.key(count))


class Matrix(ctypes.Structure):
    """dflash_quantised of dflash_cpu.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("words", "scales", "biases")),
        *((name, ctypes.c_int) for name in ("type", "bits", "group", "N", "K")),
    )


class Product:
    """A private copy of the library multiplying; owner of the arrays that it is given."""

    def __init__(self, library: CpuLibrary, weight: QuantisedWeight) -> None:
        self._library = library
        half = weight.scales.dtype != mx.float32
        arrays = [weight.words, weight.scales, weight.biases]
        self._arrays = [np.array(arrays[0])]
        self._arrays += [np.array(a.view(mx.uint16) if half else a) for a in arrays[1:]]
        columns, words = weight.words.shape
        self.columns = columns
        self._matrix = Matrix(
            *(array.ctypes.data for array in self._arrays),
            DTYPES.index(weight.scales.dtype),
            weight.bits,
            weight.group_size,
            columns,
            words * 32 // weight.bits,
        )

    def __call__(self, x: np.ndarray) -> np.ndarray:
        out = np.full((len(x), self.columns), np.nan, dtype=np.float32)
        address = ctypes.byref(self._matrix)
        self._library.call("dflash_quantised_product", address, x, len(x), out)
        return out


@linux
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_unit_row_reads_a_column_of_the_expanded_matrix(
    library: CpuLibrary, bits: int, group: int, dtype: mx.Dtype
) -> None:
    weight = matrix(37, 256, bits, group, dtype)
    got = Product(library, weight)(np.eye(256, dtype=np.float32))
    want = np.array(expanded(weight)).T
    # where the compiler of MLX fuses a multiplication and an addition, the product is not rounded
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@linux
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_has_the_same_bits_among_any_others(library: CpuLibrary, threads: int) -> None:
    library.set_threads(threads)
    product = Product(library, matrix(700, 640))
    x = np.array(rows(70, 640))
    whole = product(x)
    assert np.isfinite(whole).all()
    for count in (1, 2, 7, 33):
        assert (product(x[5 : 5 + count]) == whole[5 : 5 + count]).all()


@linux
def test_threads_change_no_bit(library: CpuLibrary) -> None:
    product, x = Product(library, matrix(3000, 512, 8)), np.array(rows(9, 512))
    found = []
    for threads in (1, 2, 5):
        library.set_threads(threads)
        found.append(product(x))
    assert all((one == found[0]).all() for one in found)


@pytest.fixture
def extension() -> None:
    if native() is None:
        pytest.skip("the extension was not built here")


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("bits", "group"), [(4, 64), (8, 32), (4, 128)])
def test_the_product_is_that_of_the_expanded_matrix(bits: int, group: int, dtype: mx.Dtype) -> None:
    weight = matrix(130, 384, bits, group, dtype)
    table = expanded(weight)
    for shape in [(384,), (1, 384), (3, 5, 384), (70, 384)]:
        x = mx.random.normal(shape, key=mx.random.key(7))
        got = quantised_matmul(x, weight)
        assert got.shape == (*shape[:-1], 130)
        assert mx.array_equal(got, x @ table.T).item()
        close = verify_qmm_reference(x, weight)
        assert mx.allclose(got, close, rtol=1e-3, atol=1e-3).item()


@pytest.mark.usefixtures("extension")
def test_arrays_in_any_order_of_memory_are_taken() -> None:
    weight = matrix(64, 128)
    x = rows(128, 6).T
    want = quantised_matmul(mx.array(np.array(x)), weight)
    assert mx.array_equal(quantised_matmul(x, weight), want).item()
    every = QuantisedWeight(weight.words[::2], weight.scales[::2], weight.biases[::2], 64, 4)
    assert mx.array_equal(quantised_matmul(x, every), want[:, ::2]).item()


@pytest.mark.usefixtures("extension")
def test_its_gradient_is_that_of_the_expanded_matrix() -> None:
    weight, x = matrix(64, 128), rows(3, 128)
    table = expanded(weight)
    got = mx.grad(lambda x: mx.square(quantised_matmul(x, weight)).sum())(x)
    want = mx.grad(lambda x: mx.square(x @ table.T).sum())(x)
    assert mx.allclose(got, want, rtol=1e-4, atol=1e-3).item()


@pytest.mark.usefixtures("extension")
def test_it_runs_inside_a_compiled_function() -> None:
    weight, x = matrix(64, 128), rows(3, 128)
    traced = mx.compile(lambda x: quantised_matmul(2 * x, weight) + 1)
    assert mx.array_equal(traced(x), quantised_matmul(2 * x, weight) + 1).item()


def test_other_matrices_have_no_product_of_their_own() -> None:
    three = mx.quantize(mx.random.normal((64, 128)), 64, 3)
    weight = QuantisedWeight(*three, 64, 3)
    assert not has_own(weight)
    assert has_own(matrix(64, 128)) == (native() is not None)


def test_rows_of_16_bits_are_left_to_mlx() -> None:
    weight, x = matrix(64, 128, dtype=mx.bfloat16), rows(3, 128).astype(mx.bfloat16)
    got = quantised_matmul(x, weight)
    assert got.dtype == mx.bfloat16
    assert mx.array_equal(got, verify_qmm_reference(x, weight)).item()
