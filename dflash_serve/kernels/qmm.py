"""Products with quantised matrices, by the fastest way that a device has.

On CPUs, where MLX's own costs as much for every row as for the first, the extension unpacks a panel
of the matrix once for all rows; every element has the bits of the product with the float32 form.
"""

import mlx.core as mx

from dflash_serve.kernels.native import native
from dflash_serve.kernels.verify_qmm import BITS, QuantisedWeight, enabled, verify_qmm

_GROUPS = (32, 64, 128)


def has_own(weight: QuantisedWeight) -> bool:
    """Whether this package has a product of its own for such a matrix on the default device."""
    return _fits(weight) and (enabled() or native() is not None)


def quantised_matmul(x: mx.array, weight: QuantisedWeight) -> mx.array:
    """``x`` [..., K] times the transposed matrix: [..., N] in x's dtype."""
    module = native(x) if _fits(weight) else None
    if module is None:
        return verify_qmm(x, weight)
    words, scales, biases = weight.words, weight.scales, weight.biases
    matrix = module.QuantisedMatrix(words, scales, biases, weight.group_size, weight.bits)
    return module.quantised_product(x, matrix)


def _fits(weight: QuantisedWeight) -> bool:
    return weight.bits in BITS and weight.group_size in _GROUPS
