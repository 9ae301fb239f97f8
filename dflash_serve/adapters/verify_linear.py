"""Quantised layers whose products of few rows run by `kernels.verify_qmm`.

Copies of MLX's layers that share their weights. Only for models of this process's own.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from dflash_serve.adapters.row_attention import as_class
from dflash_serve.kernels.verify_qmm import BITS, QuantisedWeight, verify_qmm


class VerifyLinear(nn.QuantizedLinear):
    """MLX's quantised layer over `verify_qmm`."""

    def __call__(self, x: mx.array) -> mx.array:
        out = verify_qmm(x, _weight(self))
        return out + self.bias if "bias" in self else out


class VerifyEmbedding(nn.QuantizedEmbedding):
    """MLX's quantised embedding, whose product as the head runs over `verify_qmm`."""

    def as_linear(self, x: mx.array) -> mx.array:
        return verify_qmm(x, _weight(self))


_MADE: dict[type, type[nn.Module]] = {
    nn.QuantizedLinear: VerifyLinear,
    nn.QuantizedEmbedding: VerifyEmbedding,
}


def use_verify_kernels(model: nn.Module) -> int:
    """Exchange the layers of ``model`` that the kernel is for; how many there were."""
    exchanged = 0

    def exchange(module: nn.Module) -> nn.Module:
        nonlocal exchanged
        made = _MADE.get(type(module))
        if made is None or module.mode != "affine" or module.bits not in BITS:
            return module
        exchanged += 1
        return as_class(module, made)

    leaves: Any = tree_map(exchange, model.leaf_modules(), is_leaf=nn.Module.is_module)
    model.update_modules(leaves)
    return exchanged


def _weight(layer: Any) -> QuantisedWeight:
    return QuantisedWeight(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits)
