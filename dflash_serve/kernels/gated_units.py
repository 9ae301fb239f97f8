"""Gated units of MLPs: one primitive on CPUs, where MLX computes exponentials one by one.

Plain forms are those of mlx-lm and MLX, to the bit.
"""

from functools import partial

import mlx.core as mx
import mlx.nn as nn

from dflash_serve.kernels.native import native


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up."""
    module = native(gate, up)
    return plain_swiglu(gate, up) if module is None else module.swiglu(gate, up)


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """gelu(gate) * up, by tanh."""
    module = native(gate, up)
    return plain_geglu(gate, up) if module is None else module.geglu(gate, up)


def clipped_swiglu(
    gate: mx.array, up: mx.array, alpha: float = 1.702, limit: float = 7.0
) -> mx.array:
    """gpt-oss's: g * sigmoid(alpha * g) * (u + 1) of g up to the limit and u within +-limit."""
    module = native(gate, up)
    if module is None:
        return plain_clipped_swiglu(gate, up, alpha, limit)
    return module.clipped_swiglu(gate, up, alpha, limit)


@partial(mx.compile, shapeless=True)
def plain_swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """The reference."""
    return nn.silu(gate) * up


@partial(mx.compile, shapeless=True)
def plain_geglu(gate: mx.array, up: mx.array) -> mx.array:
    """The reference."""
    return nn.gelu_approx(gate) * up


@partial(mx.compile, shapeless=True)
def plain_clipped_swiglu(gate: mx.array, up: mx.array, alpha: float, limit: float) -> mx.array:
    """The reference."""
    gate = mx.minimum(gate, limit)
    up = mx.clip(up, -limit, limit)
    return (up + 1.0) * (gate * mx.sigmoid(alpha * gate))
