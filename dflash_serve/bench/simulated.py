"""Drafters for measuring: real compute with a chosen acceptance, and no compute at all.

Knows the answer that plain decoding gave; knows nothing of schedulers or clocks.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.base import AttentionCache, DraftAdapter
from dflash_serve.adapters.cache_spec import LayerSpec
from dflash_serve.bench.errors import BenchError


class ChainDraft:
    """A `Draft` that knows one chain, tokens [R, q] int32, and nothing beside it."""

    def __init__(self, tokens: mx.array) -> None:
        self._tokens = tokens

    def chain(self) -> mx.array:
        return self._tokens

    def children(self, slot: int, before: mx.array, count: int) -> tuple[mx.array, mx.array]:
        ids = mx.broadcast_to(self._tokens[:, slot, None, None], (*before.shape, 1))
        return ids, mx.zeros(ids.shape)

    def confidences(self) -> mx.array:
        return mx.ones(self._tokens.shape)


class _Around:
    """A drafter that is ``inner`` in all but what it proposes."""

    def __init__(self, inner: DraftAdapter) -> None:
        self._inner = inner
        self.dtype, self.cache_specs = inner.dtype, inner.cache_specs
        self.block_size, self.runtime_block_size = inner.block_size, inner.runtime_block_size
        self.target_layer_ids = inner.target_layer_ids
        self.inputs, self.append_context = inner.inputs, inner.append_context


class EchoDrafter(_Around):
    """Runs ``inner`` in full, then proposes the anchor again and again.

    Right as long as a text repeats its last token, as those of random weights do now and then: so
    drafts of all lengths are accepted, which random weights' own hardly ever are.
    """

    def draft(self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]) -> ChainDraft:
        drafts = self._inner.draft(anchors, width, caches).chain()
        # Zero times the real drafts: nothing may prune the work that made them.
        return ChainDraft(anchors[:, None].astype(mx.int32) + 0 * drafts)


class SimulatedDrafter(_Around):
    """Runs ``inner`` in full, then proposes each token right with a probability of its own.

    ``oracle`` [T] is a whole greedy sequence: the token at each position. Every request's prompt
    must be a prefix of it, so that a row's position alone tells its right continuation. hits
    [rows, T - first]: whether the draft for that position in that row is right; a wrong one is the
    token before the oracle's, or 1 for 0: no draft is right by luck, and none lies behind the
    vocabulary, where the target would read memory that is not its embedding's. ``first`` is the
    first position that hits speak of.
    """

    def __init__(
        self, inner: DraftAdapter, oracle: Sequence[int], hits: np.ndarray, first: int = 0
    ) -> None:
        super().__init__(inner)
        hits = np.pad(hits, ((0, 0), (first, 0)))  # [rows, T]
        right = np.array(oracle, dtype=np.int32)
        wrong = np.where(right > 0, right - 1, 1)
        self._proposals = mx.array(np.where(hits, right, wrong).astype(np.int32))  # [rows, T]
        mx.eval(self._proposals)

    def draft(self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]) -> ChainDraft:
        drafts = self._inner.draft(anchors, width, caches).chain()
        rows = mx.arange(anchors.shape[0], dtype=mx.int32)[:, None]
        # slot i of a block whose anchor sits at S proposes the token at position S + i
        position = caches[0].offset[:, None] + mx.arange(1, width, dtype=mx.int32)
        position = mx.minimum(position, self._proposals.shape[1] - 1)
        # Zero times the real drafts: nothing may prune the work that made them.
        return ChainDraft(self._proposals[rows, position] + 0 * drafts)


class VerifyOnly:
    """Proposes token 0 without any compute, so that a round costs its verification alone."""

    block_size = runtime_block_size = 1
    cache_specs: tuple[LayerSpec, ...] = ()
    target_layer_ids: tuple[int, ...] = ()

    def __init__(self, dtype: mx.Dtype) -> None:
        self.dtype = dtype

    def inputs(self, width: int) -> int:
        return width

    def append_context(self, taps: mx.array, caches: Sequence[AttentionCache]) -> None:
        """Nothing to keep: there are no layers."""

    def draft(self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]) -> ChainDraft:
        return ChainDraft(mx.zeros((anchors.shape[0], width - 1), dtype=mx.int32))


def seeded_hits(probability: float, rows: int, length: int, seed: int) -> np.ndarray:
    """Booleans [rows, length], each True with ``probability``.

    Each row has exactly that share of them, so that a short run comes close to what is expected.
    """
    ordered = np.tile(np.arange(length) < round(probability * length), (rows, 1))
    hits: np.ndarray = np.random.default_rng(seed).permuted(ordered, axis=1)
    return hits


def expected_tokens(probability: float, block: int) -> float:
    """Committed tokens per round when each draft is right with ``probability``: sum of P^k."""
    return sum(probability**k for k in range(block))


def solve_probability(tau: float, block: int) -> float:
    """The P with ``expected_tokens(P, block) == tau``, by bisection.

    Raises:
        BenchError: no P can give that many tokens per round.
    """
    if not 1.0 <= tau <= block:
        raise BenchError(f"--tau is {tau:g}, but a block of {block} commits 1 to {block} tokens")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if expected_tokens(middle, block) < tau:
            low = middle
        else:
            high = middle
    return high
