"""Where the tokens of one forward stand: positions of ragged rows, and who sees whom.

Knows no arrays but its own small ones. True in a mask means visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from dflash_serve.kernels.attention import prepared_mask


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that a row shows to some of its tokens, by place: [0, ``capacity``).

    Place p holds position p, or in a ring (``wraps``) the newest position that is p modulo the
    capacity. ``window`` as in `AttentionSpec`.
    """

    capacity: int
    window: int | None = None
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """Who sees what: ``causal`` as in `AttentionCache.attend`.

    ``heads_per_key``: query heads that share a key.
    """

    causal: bool
    heads_per_key: int
    dtype: mx.Dtype


class Span:
    """R rows of one forward with ``width`` columns each, which some rows do not fill.

    offsets [R] int32: the position of each row's first token, and the number of tokens it held.
    lengths [R] int32: the tokens that exist. ``columns``: how many columns of each row are written
    to its caches, between its length and the width: those behind the length are never visible.
    """

    def __init__(
        self, offsets: mx.array, lengths: mx.array, width: int, columns: tuple[int, ...]
    ) -> None:
        self.offsets = offsets
        self.lengths = lengths
        self.width = width
        self.columns = columns
        self.starts = each(offsets)
        self._masks: dict[tuple[tuple[Keys, ...], Question], list[mx.array]] = {}

    @property
    def exists(self) -> mx.array:
        """[R, width] bool: the columns that are tokens."""
        return mx.arange(self.width, dtype=mx.int32) < self.lengths[:, None]

    def masks(self, keys: Sequence[Keys], question: Question) -> list[mx.array]:
        """`prepared_mask` for all columns of each row, which are written already.

        All layers of a kind share them; rows with keys of one kind are computed together.
        """
        asked = tuple(keys), question
        if asked not in self._masks:
            self._masks[asked] = self._prepared(asked[0], question)
        return self._masks[asked]

    def mask(self, row: int, first: int, last: int, keys: Keys, question: Question) -> mx.array:
        """`prepared_mask` for columns [first, last) of a row, which are written already."""
        visible = self.visible([row], first, last, keys, question.causal)
        return prepared_mask(visible, question.heads_per_key, question.dtype)

    def visible(
        self, rows: Sequence[int], first: int, last: int, keys: Keys, causal: bool
    ) -> mx.array:
        """[len(rows), q, capacity] bool: the keys that columns [first, last) of rows see."""
        whole = len(rows) == len(self.columns)
        starts, lengths = (
            array if whole else array[mx.array(list(rows))]
            for array in (self.offsets, self.lengths)
        )
        starts = starts[:, None, None]
        query = starts + mx.arange(first, last, dtype=mx.int32)[:, None]  # [R, q, 1]
        place = mx.arange(keys.capacity, dtype=mx.int32)
        if keys.wraps:
            newest = starts + (last - 1)
            position = newest - (newest - place) % keys.capacity  # [R, 1, n]; < 0: not written yet
        else:
            position = place
        visible = position <= query if causal else position < starts + lengths[:, None, None]
        if keys.wraps:
            visible = visible & (position >= 0)
        if keys.window is not None:
            visible = visible & (query - position < keys.window)
        return mx.broadcast_to(visible, (len(rows), last - first, keys.capacity))

    def _prepared(self, keys: tuple[Keys, ...], question: Question) -> list[mx.array]:
        masks: dict[int, mx.array] = {}
        for kind in dict.fromkeys(keys):
            rows = [row for row, own in enumerate(keys) if own == kind]
            visible = self.visible(rows, 0, self.width, kind, question.causal)
            together = prepared_mask(visible, question.heads_per_key, question.dtype)
            masks |= zip(rows, each(together), strict=True)
        return [masks[row] for row in range(len(keys))]


def each(rows: mx.array) -> list[mx.array]:
    """[R, ...] -> R arrays [1, ...]."""
    count = rows.shape[0]
    return [rows] if count == 1 else list(mx.split(rows, count))
