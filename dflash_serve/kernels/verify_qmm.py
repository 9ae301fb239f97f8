"""Quantised matmul of few rows: every group of weights is read and dequantised once for all rows.

For the rows of a verified block, on Metal alone and only if DFLASH_VERIFY_QMM=1: the source has
been executed only in the simulator of tests/kernels, never compiled by Metal and never timed. MLX's
own kernel for few rows reads the weights once per row. There is no CUDA twin: MLX's CUDA back end
multiplies tiles of 16 rows, which read a weight once for all of them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from dflash_serve.kernels.dispatch import (
    SIMD_WIDTH,
    Backend,
    Kernel,
    Sources,
    built,
    kernel_backend,
)

SWITCH = "DFLASH_VERIFY_QMM"
MOST_ROWS = 16
BITS = (4, 8)
INPUTS = ("x", "weight", "scales", "biases")
OUTPUTS = ("out",)

# One simdgroup per `Columns` columns of the result. Lane l takes the words l, l + 32, ... of these
# columns' weights: it unpacks 32 / Bits values of each and multiplies them into every row's sum. A
# row's sums are added in an order that does not depend on the number of rows.
METAL_SOURCE = """
    constexpr int Values = 32 / Bits;
    constexpr uint Mask = (1u << Bits) - 1u;
    const int lane = int(thread_index_in_simdgroup);
    const int first = int(thread_position_in_grid.y) * Columns;
    const int inner = x_shape[1];
    const int columns = weight_shape[0];
    const int words = weight_shape[1];
    const int groups = scales_shape[1];

    float sums[Rows][Columns];
    for (int row = 0; row < Rows; ++row) {
        for (int c = 0; c < Columns; ++c) {
            sums[row][c] = 0.0f;
        }
    }
    for (int word = lane; word < words; word += 32) {
        float unpacked[Columns][Values];
        for (int c = 0; c < Columns; ++c) {
            const uint packed = weight[(first + c) * words + word];
            const int group = (first + c) * groups + word * Values / Group;
            const float scale = static_cast<float>(scales[group]);
            const float bias = static_cast<float>(biases[group]);
            for (int i = 0; i < Values; ++i) {
                unpacked[c][i] = scale * static_cast<float>((packed >> (Bits * i)) & Mask) + bias;
            }
        }
        for (int row = 0; row < Rows; ++row) {
            for (int i = 0; i < Values; ++i) {
                const float value = static_cast<float>(x[row * inner + word * Values + i]);
                for (int c = 0; c < Columns; ++c) {
                    sums[row][c] += value * unpacked[c][i];
                }
            }
        }
    }
    for (int row = 0; row < Rows; ++row) {
        for (int c = 0; c < Columns; ++c) {
            const float sum = metal::simd_sum(sums[row][c]);
            if (lane == 0) {
                out[row * columns + first + c] = static_cast<T>(sum);
            }
        }
    }
"""

SOURCES = Sources("dflash_verify_qmm", INPUTS, OUTPUTS, METAL_SOURCE)


@dataclass(frozen=True, slots=True)
class QuantisedWeight:
    """A matrix [N, K] in MLX's affine form: words [N, K * bits / 32], and scales and biases."""

    words: mx.array
    scales: mx.array
    biases: mx.array
    group_size: int
    bits: int


@cache
def enabled() -> bool:
    """Whether DFLASH_VERIFY_QMM asks for the kernel; it is read once per process.

    Raises:
        ValueError: the variable holds neither "0" nor "1".
    """
    return wanted(os.environ)


def wanted(environ: Mapping[str, str]) -> bool:
    """`enabled` of the given environment."""
    choice = environ.get(SWITCH, "0")
    if choice not in ("0", "1"):
        raise ValueError(f"{SWITCH}={choice!r} is none of 0, 1")
    return choice == "1"


def takes(rows: int, weight: QuantisedWeight) -> bool:
    """Whether the kernel is for such a product: few rows, and columns in whole groups."""
    columns, _ = weight.words.shape
    return 1 <= rows <= MOST_ROWS and weight.bits in BITS and columns % _columns(rows) == 0


def verify_qmm(x: mx.array, weight: QuantisedWeight, backend: Backend | None = None) -> mx.array:
    """``x`` [..., K] times the transposed matrix: [..., N] in x's dtype.

    ``backend`` overrides the back end of the default device; all but METAL run MLX's own.
    """
    backend = backend or kernel_backend()
    rows = x.size // x.shape[-1]
    if backend is not Backend.METAL or not takes(rows, weight):
        return verify_qmm_reference(x, weight)
    out = launch(built(SOURCES, Backend.METAL), x.reshape(rows, -1), weight)
    return out.reshape(*x.shape[:-1], -1)


def verify_qmm_reference(x: mx.array, weight: QuantisedWeight) -> mx.array:
    """``verify_qmm`` by MLX's own operation, on any device."""
    return mx.quantized_matmul(
        x,
        weight.words,
        scales=weight.scales,
        biases=weight.biases,
        transpose=True,
        group_size=weight.group_size,
        bits=weight.bits,
    )


def launch(kernel: Kernel, x: mx.array, weight: QuantisedWeight) -> mx.array:
    """``verify_qmm`` of x [M, K] by the kernel."""
    rows, _ = x.shape
    columns, _ = weight.words.shape
    each = _columns(rows)
    (out,) = kernel(
        inputs=[x, weight.words, weight.scales, weight.biases],
        output_shapes=[(rows, columns)],
        output_dtypes=[x.dtype],
        grid=(SIMD_WIDTH, columns // each, 1),
        threadgroup=(SIMD_WIDTH, 2, 1),
        template=[
            ("T", x.dtype),
            ("Rows", rows),
            ("Columns", each),
            ("Bits", weight.bits),
            ("Group", weight.group_size),
        ],
    )
    return out


def _columns(rows: int) -> int:
    """Columns of a simdgroup: sums and unpacked weights must fit a thread's registers."""
    return 4 if 2 * rows <= MOST_ROWS else 2
