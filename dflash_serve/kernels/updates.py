"""An optimiser's passes over all weights: one primitive each on CPUs, with threads."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx import optimizers

from dflash_serve.kernels.native import native


def sum_of_squares(arrays: Sequence[mx.array]) -> mx.array:
    """Over all numbers of all arrays."""
    module = native(*arrays)
    if module is not None:
        return module.sum_of_squares(list(arrays))
    return sum((mx.square(array).sum() for array in arrays), mx.array(0.0))


class AdamW(optimizers.AdamW):
    """MLX's, always with the correction of biased means."""

    def __init__(self, learning_rate: float, weight_decay: float = 0.0) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, bias_correction=True)

    def apply_single(
        self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]
    ) -> mx.array:
        module = native(gradient, parameter)
        if module is None:
            return super().apply_single(gradient, parameter, state)
        first, second = self.betas
        rate = self.learning_rate
        settings = [
            mx.array(1.0),
            rate / (1 - first**self.step),
            mx.rsqrt(1 - second**self.step),
            1 - rate * self.weight_decay,
        ]
        parameter, state["m"], state["v"] = module.adamw(
            gradient, parameter, state["m"], state["v"], mx.stack(settings), first, second, self.eps
        )
        return parameter
