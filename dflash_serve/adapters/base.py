"""The two protocols every model family implements, and what passes through them.

Adapters hold weights and shapes. They own no cache: the engine passes one view per layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from dflash_serve.adapters.cache_spec import LayerSpec


class AdapterError(Exception):
    """A checkpoint or a pair of checkpoints that cannot be used; one line, naming both values."""


class AttentionCache(Protocol):
    """One attention layer's keys and values, for the rows of one forward of q tokens per row.

    mlx-lm's attention calls ``offset`` and ``update_and_fetch``, and then its
    ``scaled_dot_product_attention``, which `row_attention` directs to ``attend``.
    """

    @property
    def offset(self) -> mx.array:
        """What rotary embeddings take, int32: [R], the position of each row's first token.

        Or [R, q], one per token, where they do not follow each other: `rotary.Rotary` takes both.
        """
        ...

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Take keys and values [R, kv_heads, q, head_dim] of this forward's tokens.

        They come back as they are, for later layers that share them; `attend` has all that rows
        hold.
        """
        ...

    def attend(
        self,
        queries: mx.array,
        scale: float,
        *,
        causal: bool = True,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """Queries [R, heads, q, head_dim] over what each row holds -> [R, heads, q, head_dim].

        A query sees the tokens before it and itself, within the layer's window; with ``causal``
        off also the later tokens of its row in this forward.
        """
        ...


Advance = Callable[[tuple[mx.array, ...], mx.array], tuple[mx.array, ...]]
"""(state before the forward, tokens kept per row [R] int32) -> the state behind those tokens.

Both states are tuples of [R, ...] in the order of `StateSpec.arrays`. Keeping 0 tokens of a row
leaves its state as it was. Where all tokens stay, the second argument is `StateCache.lengths`
itself, the same object: what the forward ended with is then the answer, without another run.
"""


class StateCache(Protocol):
    """One recurrent layer's state, for the rows of one forward of q tokens per row."""

    @property
    def lengths(self) -> mx.array:
        """[R] int32: the tokens that exist of each row; the rest of the q columns is padding."""
        ...

    @property
    def mask(self) -> mx.array:
        """[R, q] bool: which tokens exist."""
        ...

    @property
    def state(self) -> tuple[mx.array, ...]:
        """Before this forward: [R, ...] per array of the `StateSpec`."""
        ...

    def record(self, advance: Advance) -> None:
        """Take what gives the state behind the first tokens of this forward.

        Called once per forward. The engine calls ``advance`` when it knows how many tokens of each
        row stay: after the acceptance scan, within the same graph.
        """
        ...


LayerCache = AttentionCache | StateCache


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
    def dtype(self) -> mx.Dtype:
        """Of activations, and so of keys and values."""
        ...

    @property
    def cache_specs(self) -> tuple[LayerSpec, ...]:
        """What each layer keeps, first layer first."""
        ...

    @property
    def max_context(self) -> int: ...

    def forward(
        self,
        tokens: mx.array,
        caches: Sequence[LayerCache],
        tap_layers: tuple[int, ...] = (),
    ) -> Captured:
        """Run [R, q] token ids through all layers, each with its cache of ``cache_specs``."""
        ...

    def head(self, hidden: mx.array) -> mx.array:
        """[..., H] after a final norm -> [..., V] by the head alone, which its drafters share."""
        ...

    def logits(self, hidden: mx.array) -> mx.array:
        """[..., H] after the final norm -> [..., V], capped where the family caps its own.

        Ask only for rows that are used.
        """
        ...

    def embed(self, tokens: mx.array) -> mx.array:
        """Token ids [...] -> the embedding [..., H] that enters the first layer."""
        ...


class Draft(Protocol):
    """What a forward over a block of ``width`` tokens, the anchor included, predicts for R rows.

    Slot i, for i in [0, width - 1), is the token i + 1 places behind the anchor. Right or wrong, it
    is a token of the target's vocabulary: behind that an embedding reads memory that is not its
    own, and a NaN in there would reach the columns that are kept.
    """

    def chain(self) -> mx.array:
        """The drafter's own choice: tokens [R, width - 1] int32."""
        ...

    def children(self, slot: int, before: mx.array, count: int) -> tuple[mx.array, mx.array]:
        """The likeliest tokens of ``slot`` after each of ``before`` [R, N], the tokens before it.

        Returns ids [R, N, C] int32, the best first, and their log-probabilities [R, N, C] float32,
        with C = ``count``, or fewer where the drafter tells no more apart.
        """
        ...

    def confidences(self) -> mx.array:
        """How likely each token of `chain` is to be accepted if those before it are.

        [R, width - 1] float32: a confidence head's estimate, or the token's own probability.
        """
        ...


class DraftAdapter(Protocol):
    """A drafter: predicts the tokens of a block for the target to verify."""

    @property
    def dtype(self) -> mx.Dtype: ...
    @property
    def cache_specs(self) -> tuple[LayerSpec, ...]:
        """What each layer keeps, first layer first."""
        ...

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

    def inputs(self, width: int) -> int:
        """Tokens that enter the network to draft a block of ``width``: what its caches span.

        One fewer where the anchor's own slot predicts the first draft.
        """
        ...

    def append_context(self, taps: mx.array, caches: Sequence[AttentionCache]) -> None:
        """Write context keys and values of [R, q, K * H] target features at each row's offset."""
        ...

    def draft(self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]) -> Draft:
        """Predict what follows ``anchors`` [R] int32, which sit at each cache row's offset.

        ``width`` counts the tokens of a block, the anchor included; the caches are views of a
        forward of ``inputs(width)`` tokens and know how many of them exist for each row.
        """
        ...


class FillingDrafter(DraftAdapter, Protocol):
    """A drafter that was trained to go on from a visible prefix: a VP-drafter (D2SD)."""

    def fill(self, blocks: mx.array, caches: Sequence[AttentionCache]) -> tuple[mx.array, mx.array]:
        """Fill K blocks per row, which stand side by side and do not see each other.

        blocks [R, K, w] int32 with -1 where a token is wanted, the anchor first. Returns tokens
        int32 and their log-probabilities float32, both [R, K, w - 1], of the slots behind the
        anchor; given ones are returned as they are.
        """
        ...
