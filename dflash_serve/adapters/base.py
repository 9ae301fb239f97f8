"""The two protocols every model family implements, and what passes through them.

Adapters hold weights and shapes. They own no cache: the engine passes one view per layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx


class AdapterError(Exception):
    """A checkpoint or a pair of checkpoints that cannot be used; one line, naming both values."""


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """Shape of the attention cache of one model: one entry per layer."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: mx.Dtype

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.size


class LayerCache(Protocol):
    """One layer's keys and values for the rows of one forward, as mlx-lm's models call it.

    ``offset`` [R] int32 is the number of tokens that each row holds before this forward;
    ``attended`` is n, the number of key rows that ``update_and_fetch`` returns.
    """

    @property
    def offset(self) -> mx.array: ...
    @property
    def attended(self) -> int: ...

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write [R, kv_heads, q, head_dim] at each row's offset; return all attended rows.

        The result is [R, kv_heads, n, head_dim]: n >= every row's length, masked by the caller.
        """
        ...


@dataclass(frozen=True, slots=True)
class Captured:
    """What one target forward leaves behind.

    hidden: [R, q, H] after the final norm. taps: [R, q, K * H], the residual stream after each
    tapped layer, concatenated in the order of the drafter's ``target_layer_ids``; None untapped.
    """

    hidden: mx.array
    taps: mx.array | None


class TargetSizes(Protocol):
    """What of a target its drafters are made to fit."""

    @property
    def num_layers(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


class TargetAdapter(TargetSizes, Protocol):
    """A target: the model whose own choices are emitted."""

    @property
    def layout(self) -> CacheLayout: ...
    @property
    def max_context(self) -> int: ...

    def forward(
        self,
        tokens: mx.array,
        mask: mx.array,
        caches: Sequence[LayerCache],
        tap_layers: tuple[int, ...] = (),
    ) -> Captured:
        """Run [R, q] token ids through all layers; ``mask`` is boolean [R, 1, q, n]."""
        ...

    def logits(self, hidden: mx.array) -> mx.array:
        """[..., H] after the final norm -> [..., V]. Ask only for rows that are used."""
        ...

    def embed(self, tokens: mx.array) -> mx.array:
        """Token ids [...] -> the embedding [..., H] that enters the first layer."""
        ...


class DraftAdapter(Protocol):
    """A drafter: proposes a block of tokens for the target to verify."""

    @property
    def layout(self) -> CacheLayout: ...
    @property
    def block_size(self) -> int:
        """Tokens of the largest block, the anchor included: as trained."""
        ...

    @property
    def runtime_block_size(self) -> int:
        """The block that its maker advises for serving."""
        ...

    @property
    def target_layer_ids(self) -> tuple[int, ...]: ...

    def append_context(self, taps: mx.array, caches: Sequence[LayerCache]) -> None:
        """Write context keys and values of [R, q, K * H] target features at each row's offset."""
        ...

    def propose(
        self, anchors: mx.array, block_lengths: mx.array, width: int, caches: Sequence[LayerCache]
    ) -> mx.array:
        """Draft after ``anchors`` [R] int32, which sit at each cache row's offset.

        ``block_lengths`` [R] counts the slots that exist for each row, the anchor included, up to
        ``width``. Returns proposals [R, width - 1] int32 for the positions after the anchor.
        """
        ...
