"""RMSNorm: one primitive on CPUs, where MLX runs its own as seven operations."""

import mlx.core as mx

from dflash_serve.kernels.native import native


def rms_norm(x: mx.array, weight: mx.array, eps: float, shift: float = 0.0) -> mx.array:
    """x [..., n] / sqrt(mean(x^2) + eps) * (weight [n] + shift).

    A row's bits do not depend on other rows.
    """
    module = native(x, weight)
    if module is None:
        return mx.fast.rms_norm(x, shift + weight if shift else weight, eps)
    return module.rms_norm(x, module.Norm(weight, eps, shift))
