"""RMSNorm: one primitive on CPUs, where MLX runs its own as seven operations."""

import mlx.core as mx

from dflash_serve.kernels.native import native


def rms_norm(x: mx.array, weight: mx.array | None, eps: float, shift: float = 0.0) -> mx.array:
    """x [..., n] / sqrt(mean(x^2) + eps) * (weight [n] + shift); MLX's own bits.

    A row's bits do not depend on other rows.
    """
    module = native(x) if weight is None else native(x, weight)
    if module is not None:
        return module.rms_norm(x, module.Norm(weight, eps, shift))
    if weight is not None and shift:
        weight = shift + weight
    return mx.fast.rms_norm(x, weight, eps)
