"""A drafter that knows the right texts and hides each token among wrong siblings."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.base import AttentionCache, DraftAdapter

RANKS = 4
"""Siblings among which the right token is one."""


@dataclass(frozen=True)
class Texts:
    """The token after each token at each position, of all texts at once: [positions, vocab].

    Where two texts have the same token at the same place, one of them is drafted wrongly there.
    """

    following: mx.array
    rank: mx.array

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], positions: int, vocab: int, seed: int) -> "Texts":
        """``rank``: how many wrong siblings come before the right token at each position."""
        table = np.full((positions, vocab), 1, dtype=np.int32)
        for text in texts:
            for at in range(len(text) - 1):
                table[at, text[at]] = text[at + 1]
        ranks = np.random.default_rng(seed).integers(0, RANKS, positions)
        return cls(mx.array(table), mx.array(ranks.astype(np.int32)))


class BranchingDraft:
    """A `Draft` from the anchors' positions [R] on."""

    def __init__(self, texts: Texts, anchors: mx.array, positions: mx.array, width: int) -> None:
        self._texts = texts
        self._anchors = anchors
        self._positions = positions
        self._width = width

    def chain(self) -> mx.array:
        """The likeliest of each slot, which is the right one where its rank is 0."""
        tokens, before = [], self._anchors[:, None]
        for slot in range(self._width - 1):
            before = self.children(slot, before, 1)[0][..., 0]
            tokens.append(before)
        return mx.concatenate(tokens, axis=1)

    def confidences(self) -> mx.array:
        return mx.full((self._anchors.shape[0], self._width - 1), 0.4)

    def children(self, slot: int, before: mx.array, count: int) -> tuple[mx.array, mx.array]:
        texts = self._texts
        at = mx.minimum(self._positions + slot, texts.following.shape[0] - 1)[:, None]
        right = texts.following[at, before][..., None]  # [R, N, 1]
        shift = (mx.arange(RANKS) - texts.rank[at][..., None]) % RANKS
        ids = (right + shift) % texts.following.shape[1]
        chances = mx.log(0.4 * 0.6 ** mx.arange(RANKS).astype(mx.float32))
        return ids[..., :count].astype(mx.int32), mx.broadcast_to(chances, ids.shape)[..., :count]


class BranchingDrafter:
    """Wraps a real drafter: same compute and context, drafts from the right texts."""

    def __init__(self, drafter: DraftAdapter, texts: Texts) -> None:
        self._drafter = drafter
        self._texts = texts

    def __getattr__(self, name: str) -> object:
        return getattr(self._drafter, name)

    def draft(
        self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]
    ) -> BranchingDraft:
        self._drafter.draft(anchors, width, caches)
        return BranchingDraft(self._texts, anchors, caches[0].offset, width)
