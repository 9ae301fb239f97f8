"""Where the tokens of one forward stand: positions of ragged rows, and who sees whom.

Knows no arrays but its own small ones. True in a mask means visible.
"""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that a row shows to some of its tokens, by place: [0, ``capacity``).

    Place p holds position p, or in a ring (``wraps``) the newest position that is p modulo the
    capacity. ``window`` as in `AttentionSpec`.
    """

    capacity: int
    window: int | None = None
    wraps: bool = False


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
        self._ends = each(offsets + lengths)
        self._masks: dict[tuple[int, int, int, Keys, bool], mx.array] = {}

    @property
    def exists(self) -> mx.array:
        """[R, width] bool: the columns that are tokens."""
        return mx.arange(self.width, dtype=mx.int32) < self.lengths[:, None]

    def mask(self, row: int, first: int, last: int, keys: Keys, causal: bool) -> mx.array:
        """[1, 1, q, capacity] for columns [first, last) of a row, which are written already.

        One array per question: all layers of a kind share it.
        """
        asked = (row, first, last, keys, causal)
        if asked not in self._masks:
            self._masks[asked] = self._visible(row, first, last, keys, causal)
        return self._masks[asked]

    def _visible(self, row: int, first: int, last: int, keys: Keys, causal: bool) -> mx.array:
        start = self.starts[row]
        query = start + mx.arange(first, last, dtype=mx.int32)[:, None]  # [q, 1]
        place = mx.arange(keys.capacity, dtype=mx.int32)
        if keys.wraps:
            newest = start + (last - 1)
            position = newest - (newest - place) % keys.capacity  # [n]; below 0: not written yet
        else:
            position = place
        visible = position <= query if causal else position < self._ends[row]
        if keys.wraps:
            visible = visible & (position >= 0)
        if keys.window is not None:
            visible = visible & (query - position < keys.window)
        return mx.broadcast_to(visible, (last - first, keys.capacity))[None, None]


def each(rows: mx.array) -> list[mx.array]:
    """[R, ...] -> R arrays [1, ...]."""
    count = rows.shape[0]
    return [rows] if count == 1 else list(mx.split(rows, count))
