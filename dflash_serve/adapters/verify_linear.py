"""Quantised layers whose products run by `kernels.qmm`.

Copies of MLX's layers that share their weights. Only for models of this process's own.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from dflash_serve.adapters.row_attention import as_class
from dflash_serve.kernels.qmm import has_own, quantised_matmul
from dflash_serve.kernels.verify_qmm import QuantisedWeight


class OwnLinear(nn.QuantizedLinear):
    """MLX's quantised layer over `quantised_matmul`."""

    def __call__(self, x: mx.array) -> mx.array:
        out = quantised_matmul(x, _weight(self))
        return out + self.bias if "bias" in self else out


class OwnEmbedding(nn.QuantizedEmbedding):
    """MLX's quantised embedding, whose product as the head runs over `quantised_matmul`."""

    def as_linear(self, x: mx.array) -> mx.array:
        return quantised_matmul(x, _weight(self))


_MADE: dict[type, type[nn.Module]] = {
    nn.QuantizedLinear: OwnLinear,
    nn.QuantizedEmbedding: OwnEmbedding,
}


def use_own_products(model: nn.Module) -> int:
    """Exchange the layers of ``model`` that there is a product for; how many there were."""
    exchanged = 0

    def exchange(module: nn.Module) -> nn.Module:
        nonlocal exchanged
        if not has_own_product(module):
            return module
        exchanged += 1
        return as_class(module, _MADE[type(module)])

    leaves: Any = tree_map(exchange, model.leaf_modules(), is_leaf=nn.Module.is_module)
    model.update_modules(leaves)
    return exchanged


def has_own_product(module: Any) -> bool:
    """Whether `use_own_products` exchanges it."""
    return type(module) in _MADE and module.mode == "affine" and has_own(_weight(module))


def _weight(layer: Any) -> QuantisedWeight:
    return QuantisedWeight(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits)
