"""Rotary position embedding whose tables are computed once per forward on the CPU.

MLX's CPU back-end runs ``mx.fast.rope`` as some twenty operations per call, sines and cosines
included, for queries and keys of every layer. Elsewhere it is one kernel and stays.
"""

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.rope_utils import initialize_rope

from dflash_serve.adapters.base import AdapterError
from dflash_serve.kernels.rms_norm import rms_norm
from dflash_serve.kernels.rotation import HeadNorm, rotate

_TYPES = ("default", "linear", "llama3", "mrope", "proportional", "yarn")
"""Those of mlx-lm that take an offset per row, and that were tried."""


class Rotary(nn.Module):
    """Split-half rotation of the first ``dims`` of a head; one instance serves a model's layers.

    Same bits as ``mx.fast.rope``. Scaled variants (yarn and its like) are mlx-lm's own.

    Raises:
        AdapterError: a scaled variant that is not supported.
    """

    def __init__(
        self,
        dims: int,
        base: float,
        scaling: dict[str, Any] | None = None,
        max_positions: int | None = None,
    ) -> None:
        super().__init__()
        kind = (scaling or {}).get("type") or (scaling or {}).get("rope_type") or "default"
        if kind not in _TYPES:
            raise AdapterError(f"rope_type is {kind!r}, supported are {', '.join(_TYPES)}")
        self._rope = initialize_rope(
            dims,
            base=base,
            traditional=False,
            scaling_config=scaling,
            max_position_embeddings=max_positions,
        )
        self._half = dims // 2
        self._step = math.log(base) / self._half
        self._shared = isinstance(self._rope, nn.RoPE) and self._rope.scale == 1.0
        self._last: tuple[mx.array, int, mx.array, mx.array] | None = None

    def __call__(self, x: mx.array, offset: mx.array, norm: HeadNorm | None = None) -> mx.array:
        """Rotate [R, heads, q, head_dim] from each row's offset [R] or at positions [R, q].

        With a ``norm``, heads are normalised first.
        """
        if self._shared and mx.default_device() == mx.Device(mx.cpu):
            return rotate(x, *self._tables(offset, x.shape[2]), norm)
        if norm is not None:  # as projections leave it in memory: GPUs copy another order
            x = rms_norm(x.swapaxes(1, 2), norm.weight, norm.eps).swapaxes(1, 2)
        return rotated(self._rope, x, offset)

    def _tables(self, offset: mx.array, width: int) -> tuple[mx.array, mx.array]:
        """Cosines and sines [R, 1, q, dims / 2] of the last offsets or positions, by identity.

        All layers of a forward pass the same array; holding it keeps its identity its own.
        """
        if self._last is None or self._last[0] is not offset or self._last[1] != width:
            frequencies = mx.exp(mx.arange(0, -self._half, -1, dtype=mx.float32) * self._step)
            positions = offset
            if offset.ndim == 1:
                positions = mx.arange(width, dtype=mx.int32) + offset[:, None]
            angles = positions.astype(mx.float32)[:, None, :, None] * frequencies
            self._last = (offset, width, mx.cos(angles), mx.sin(angles))
        return self._last[2], self._last[3]


class AnyRotary(nn.Module):
    """A rotation of mlx-lm's that takes an offset per row, over `AttentionCache.offset`."""

    def __init__(self, rope: nn.Module) -> None:
        super().__init__()
        self._rope = rope

    def __call__(self, x: mx.array, offset: mx.array) -> mx.array:
        """As `Rotary`: from an offset per row, or by a position per token."""
        return rotated(self._rope, x, offset)


def rotated(rope: nn.Module, x: mx.array, offset: mx.array) -> mx.array:
    """``rope`` over [R, heads, q, head_dim], from offsets [R] or at positions [R, q], int32.

    It knows one offset per row, so tokens with positions of their own become rows.
    """
    if offset.ndim == 1:
        return rope(x, offset=offset)
    rows, heads, width, dim = x.shape
    tokens = x.swapaxes(1, 2).reshape(rows * width, heads, 1, dim)
    turned = rope(tokens, offset=offset.reshape(-1))
    return turned.reshape(rows, width, heads, dim).swapaxes(1, 2)
