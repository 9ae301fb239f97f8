"""Rotary position embedding whose tables are computed once per forward on the CPU.

MLX's CPU back-end runs ``mx.fast.rope`` as some twenty operations per call, sines and cosines
included, for queries and keys of every layer. Elsewhere it is one kernel and stays.
"""

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.rope_utils import (
    Llama3RoPE,
    ProportionalRoPE,
    YarnRoPE,
    initialize_rope,
)

from dflash_serve.adapters.base import AdapterError
from dflash_serve.kernels.rms_norm import rms_norm
from dflash_serve.kernels.rotation import HeadNorm, rotate

_TYPES = ("default", "linear", "llama3", "mrope", "proportional", "yarn")
"""Those of mlx-lm that take an offset per row, and that were tried."""
_TABLED = (nn.RoPE, Llama3RoPE, ProportionalRoPE, YarnRoPE)
"""Rotations by fixed frequencies."""

_MOST_PAIRS = 4096
"""Of a head's numbers in a table: no head has more, but a damaged config may say so."""


class AnyRotary(nn.Module):
    """A rotation of mlx-lm's that takes an offset per row, over `AttentionCache.offset`.

    With the bits of mlx-lm's own.
    """

    def __init__(self, rope: nn.Module) -> None:
        super().__init__()
        self._rope = rope
        self.angles = _angles(rope)
        self._last: tuple[mx.array, int, mx.array, mx.array] | None = None

    def __call__(self, x: mx.array, offset: mx.array, norm: HeadNorm | None = None) -> mx.array:
        """Rotate [R, heads, q, head_dim] from each row's offset [R] or at positions [R, q].

        With a ``norm``, heads are normalised first.
        """
        angles = self.angles if mx.default_device() == mx.Device(mx.cpu) else None
        if norm is not None and (angles is None or angles.gain != 1.0):
            # as projections leave heads in memory: GPUs copy another order to normalise it
            x = rms_norm(x.swapaxes(1, 2), norm.weight, norm.eps).swapaxes(1, 2)
            norm = None
        if angles is None:
            return rotated(self._rope, x, offset)
        if angles.gain != 1.0:
            turning = 2 * len(angles.frequencies)
            whole = turning == x.shape[-1]
            x = x * angles.gain if whole else x.at[..., :turning].multiply(angles.gain)
        return rotate(x, *self._tables(angles, offset, x.shape[2]), norm)

    def _tables(self, angles: "Angles", offset: mx.array, width: int) -> tuple[mx.array, mx.array]:
        """Cosines and sines [R, 1, q, dims / 2] of the last offsets or positions, by identity.

        All layers of a forward pass the same array; holding it keeps its identity its own.
        """
        if self._last is None or self._last[0] is not offset or self._last[1] != width:
            positions = offset
            if offset.ndim == 1:
                positions = mx.arange(width, dtype=mx.int32) + offset[:, None]
            scaled = positions.astype(mx.float32)[:, None, :, None] * angles.scale
            turns = scaled * mx.array(angles.frequencies)
            self._last = (offset, width, mx.cos(turns), mx.sin(turns))
        return self._last[2], self._last[3]


class Rotary(AnyRotary):
    """Split-half rotation of the first ``dims`` of a head; one instance serves a model's layers.

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
        kind = (scaling or {}).get("type") or (scaling or {}).get("rope_type") or "default"
        if kind not in _TYPES:
            raise AdapterError(f"rope_type is {kind!r}, supported are {', '.join(_TYPES)}")
        rope = initialize_rope(
            dims,
            base=base,
            traditional=False,
            scaling_config=scaling,
            max_position_embeddings=max_positions,
        )
        super().__init__(rope)


@dataclass(frozen=True, slots=True)
class Angles:
    """By which a head's pairs of numbers turn from one position to the next, and grow by a gain."""

    frequencies: tuple[float, ...]
    scale: float = 1.0
    gain: float = 1.0


def _angles(rope: Any) -> Angles | None:
    """Those of a rotation in halves by fixed frequencies, with MLX's bits; None for another one."""
    if type(rope) not in _TABLED or rope.traditional:
        return None
    scale, gain = getattr(rope, "scale", 1.0), getattr(rope, "mscale", 1.0)
    half = rope.dims // 2 if type(rope) is nn.RoPE else rope._freqs.size
    if half > _MOST_PAIRS:
        return None
    if type(rope) is nn.RoPE:
        steps = mx.arange(0, -half, -1, dtype=mx.float32) * (math.log(rope.base) / half)
        frequencies: Any = mx.exp(steps).tolist()
    else:
        frequencies = mx.reciprocal(rope._freqs).tolist()
    return Angles(tuple(frequencies), scale, gain)


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
