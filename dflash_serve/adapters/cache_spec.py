"""What each layer of a model keeps of a row between two forwards. The engine builds it from this.

A layer is described by one spec. A mixture of kinds is a tuple with different ones.
"""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Keys and values, one of each per token: [kv_heads, tokens, head_dim].

    ``window`` W: a query sees itself and the W - 1 tokens before it, so older ones are dropped;
    None: it sees all tokens before it.
    """

    kv_heads: int
    head_dim: int
    dtype: mx.Dtype
    window: int | None = None


@dataclass(frozen=True, slots=True)
class StateArray:
    """One array of a recurrent layer's state, without the axis of rows. It begins as zeros."""

    shape: tuple[int, ...]
    dtype: mx.Dtype


@dataclass(frozen=True, slots=True)
class StateSpec:
    """A state of fixed size that every token replaces: recurrent layers, short convolutions."""

    arrays: tuple[StateArray, ...]


LayerSpec = AttentionSpec | StateSpec
