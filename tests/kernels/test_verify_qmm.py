"""The quantised matmul of few rows: the kernel in the simulator, its gate and its switch."""

import functools

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.kernels import verify_qmm as qmm
from dflash_serve.kernels.dispatch import Backend
from tests.kernels.gpu_sim import simulator

needs_gxx = pytest.mark.skipif(
    simulator.compiler() is None, reason="the GPU simulator needs g++ on Linux"
)


def drawn(rows, columns, inner, bits, group_size=32, dtype=mx.float32):
    keys = mx.random.split(mx.random.key(rows + columns + inner + bits), 2)
    dense = mx.random.normal((columns, inner), key=keys[0]).astype(dtype)
    words, scales, biases = mx.quantize(dense, group_size=group_size, bits=bits)
    x = mx.random.normal((rows, inner), key=keys[1]).astype(dtype)
    return x, qmm.QuantisedWeight(words, scales, biases, group_size, bits)


def exact(x, weight):
    """The product of the dequantised matrix in float64."""
    dense = mx.dequantize(
        weight.words,
        weight.scales,
        weight.biases,
        group_size=weight.group_size,
        bits=weight.bits,
    )
    return np.array(x, dtype=np.float64) @ np.array(dense, dtype=np.float64).T


@functools.cache
def simulated(seed=0):
    return simulator.metal_kernel("qmm", qmm.INPUTS, qmm.OUTPUTS, qmm.METAL_SOURCE, seed=seed)


@needs_gxx
@pytest.mark.parametrize(
    ("rows", "columns", "inner", "bits", "group_size"),
    [(2, 12, 128, 4, 32), (8, 8, 1088, 4, 64), (9, 6, 192, 8, 64), (16, 8, 256, 4, 128)],
)
def test_simulated_kernel_is_the_product(rows, columns, inner, bits, group_size):
    x, weight = drawn(rows, columns, inner, bits, group_size)
    assert qmm.takes(rows, weight)
    found = np.array(qmm.launch(simulated(seed=rows), x, weight))
    np.testing.assert_allclose(found, exact(x, weight), atol=2e-4)
    np.testing.assert_allclose(found, np.array(qmm.verify_qmm_reference(x, weight)), atol=2e-4)


@needs_gxx
def test_simulated_kernel_keeps_half_precision():
    x, weight = drawn(3, 8, 128, 4, dtype=mx.float16)
    found = qmm.launch(simulated(), x, weight)
    assert found.dtype == mx.float16
    wanted = exact(x.astype(mx.float32), weight)
    np.testing.assert_allclose(np.array(found, dtype=np.float64), wanted, atol=0.05)


@needs_gxx
def test_a_row_s_result_does_not_depend_on_its_neighbours():
    x, weight = drawn(12, 8, 320, 4)
    together = qmm.launch(simulated(), x, weight)
    for count in (1, 3):
        alone = qmm.launch(simulated(), x[4 : 4 + count], weight)
        assert mx.array_equal(alone, together[4 : 4 + count])


@needs_gxx
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("word += 32", "word += 33"),
        ("(Bits * i)", "(Bits * (Values - 1 - i))"),
        ("word * Values / Group", "word / Group"),
        ("metal::simd_sum(sums[row][c])", "sums[row][c]"),
        ("& Mask) + bias", "& Mask)"),
    ],
)
def test_a_wrong_metal_source_is_seen(right, wrong):
    source = qmm.METAL_SOURCE.replace(right, wrong)
    assert source != qmm.METAL_SOURCE
    x, weight = drawn(2, 8, 512, 4)
    try:
        kernel = simulator.metal_kernel("wrong", qmm.INPUTS, qmm.OUTPUTS, source)
        found = qmm.launch(kernel, x, weight)
    except simulator.SimulationError:
        return
    assert not np.allclose(np.array(found), exact(x, weight), atol=1e-2)


@pytest.mark.skipif(mx.metal.is_available(), reason="this machine runs the kernel itself")
def test_only_metal_and_few_rows_reach_the_kernel():
    x, weight = drawn(16, 8, 128, 4)
    with pytest.raises(RuntimeError, match="No Metal back-end"):
        qmm.verify_qmm(x, weight, backend=Backend.METAL)
    for backend in (Backend.PLAIN, Backend.CUDA):
        found = qmm.verify_qmm(x.reshape(2, 8, -1), weight, backend=backend)
        assert mx.array_equal(found, qmm.verify_qmm_reference(x, weight).reshape(2, 8, -1))
    many, weight = drawn(17, 8, 128, 4)
    found = qmm.verify_qmm(many, weight, backend=Backend.METAL)
    assert mx.array_equal(found, qmm.verify_qmm_reference(many, weight))


def test_other_shapes_and_widths_of_bits_stay_with_mlx():
    assert qmm.takes(1, drawn(1, 8, 128, 8)[1])
    assert not qmm.takes(0, drawn(1, 8, 128, 4)[1])
    assert not qmm.takes(2, drawn(2, 6, 128, 4)[1])
    assert not qmm.takes(2, drawn(2, 8, 128, 6)[1])


def test_the_switch_is_off_unless_set():
    assert [qmm.wanted(env) for env in ({}, {qmm.SWITCH: "0"}, {qmm.SWITCH: "1"})] == [
        False,
        False,
        True,
    ]
    with pytest.raises(ValueError, match="DFLASH_VERIFY_QMM='on' is none of 0, 1"):
        qmm.wanted({qmm.SWITCH: "on"})


@pytest.mark.metal
@pytest.mark.skipif(not mx.metal.is_available(), reason="needs an Apple GPU")
def test_metal_equals_reference():
    for rows in (1, 2, 8, 16):
        for bits in qmm.BITS:
            x, weight = drawn(rows, 4096, 4096, bits, 64, mx.float16)
            found = qmm.verify_qmm(x, weight, backend=Backend.METAL)
            assert mx.allclose(found, qmm.verify_qmm_reference(x, weight), atol=0.5, rtol=0.02)
