"""Rotation of heads by tables of their positions: one primitive on CPUs."""

from typing import NamedTuple

import mlx.core as mx

from dflash_serve.kernels.native import native
from dflash_serve.kernels.rms_norm import rms_norm


class HeadNorm(NamedTuple):
    """An RMSNorm of heads, which comes before their rotation: weight [d]."""

    weight: mx.array
    eps: float


def rotate(x: mx.array, cos: mx.array, sin: mx.array, norm: HeadNorm | None = None) -> mx.array:
    """Heads [R, heads, q, d], of any strides, of which the first 2 * half numbers rotate in halves.

    Tables [R, 1, q, half] float32. The same bits with the norm as with `rms_norm` before it.
    """
    arrays = (x, cos, sin) if norm is None else (x, cos, sin, norm.weight)
    module = native(*arrays)
    if module is not None:
        return module.rotary(x, cos, sin, norm and module.Norm(norm.weight, norm.eps, 0.0))
    if norm is not None:
        x = rms_norm(x, norm.weight, norm.eps)
    half = cos.shape[-1]
    left, right = x[..., :half], x[..., half : 2 * half]
    cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    parts = [left * cos - right * sin, left * sin + right * cos]
    if x.shape[-1] > 2 * half:
        parts.append(x[..., 2 * half :])
    return mx.concatenate(parts, axis=-1)
