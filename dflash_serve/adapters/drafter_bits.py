"""A loaded drafter with its matrices in 4 or 8 bits, beside the one that it was made from."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.verify_linear import use_own_products

GROUP = 64
"""Weights that share a scale: MLX's own default, and what the published 4-bit drafters have."""


def quantised(drafter: DFlashDrafter, bits: int) -> DFlashDrafter:
    """A drafter of the same target whose products read ``bits`` per weight, on a CPU too.

    What is no matrix stays as it is, and so does a head of one output.

    Raises:
        AdapterError: a matrix is quantised already, or has rows that groups do not divide.
    """
    model = type(drafter).model_class(drafter.config)
    matrices = [
        (path, module)
        for path, module in drafter.model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding) or "scales" in module
    ]
    for path, module in matrices:
        _check(path, module, bits)
    model.update(drafter.model.parameters())
    nn.quantize(model, GROUP, bits, class_predicate=lambda path, module: _is_matrix(module))
    model.eval()
    mx.eval(model)
    if mx.default_device() == mx.Device(mx.cpu):
        use_own_products(model)
    return drafter.with_model(model)


def _is_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Embedding) and module.weight.shape[0] > 1


def _check(path: str, module: Any, bits: int) -> None:
    if "scales" in module:
        raise AdapterError(
            f"drafter_bits is {bits}, but the drafter's {path} is stored in {module.bits} bits"
        )
    width = module.weight.shape[-1]
    if _is_matrix(module) and width % GROUP:
        raise AdapterError(
            f"drafter_bits is {bits}, but the drafter's {path} has rows of {width} weights, which "
            f"groups of {GROUP} do not divide"
        )
