"""Where the tokens of one forward stand: positions of ragged rows, and who sees whom.

Knows no arrays but its own small ones. True in a mask means visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from dflash_serve.engine.cache.layout import Layout
from dflash_serve.kernels.attention import Line, orders_keys, prepared_mask


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
    ``layout``: how columns stand that do not follow one another; every row fills such a forward.
    """

    def __init__(
        self,
        offsets: mx.array,
        lengths: mx.array,
        width: int,
        columns: tuple[int, ...],
        layout: Layout | None = None,
    ) -> None:
        self.offsets = offsets
        self.lengths = lengths
        self.width = width
        self.columns = columns
        self.layout = layout
        self.starts = each(offsets)
        # as rotary embeddings take them, one array for all layers
        self.positions = offsets if layout is None else offsets[:, None] + layout.depths
        self._masks: dict[tuple[tuple[Keys, ...], Question], list[mx.array]] = {}
        self._lines: dict[tuple[int, int], list[Line]] = {}
        self._written_at: dict[tuple[int, int, int], mx.array] = {}

    @property
    def exists(self) -> mx.array:
        """[R, width] bool: the columns that are tokens."""
        return mx.arange(self.width, dtype=mx.int32) < self.lengths[:, None]

    def written_at(self, row: int, first: int, last: int) -> mx.array:
        """[last - first] int32: where columns [first, last) of a row lie in a cache without end.

        The same for all layers.
        """
        asked = row, first, last
        if asked not in self._written_at:
            self._written_at[asked] = self.starts[row] + mx.arange(first, last, dtype=mx.int32)
        return self._written_at[asked]

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
        starts, lengths = (self._of(array, rows) for array in (self.offsets, self.lengths))
        starts = starts[:, None, None]
        query = starts + self._depths(rows, first, last)  # [R, q, 1]
        place = mx.arange(keys.capacity, dtype=mx.int32)
        if keys.wraps:
            newest = starts + (last - 1)
            position = newest - (newest - place) % keys.capacity  # [R, 1, n]; < 0: not written yet
        else:
            position = place
        if self.layout is not None and not self._in_line:
            return self._across(rows, query, position - starts, keys, causal)
        visible = position <= query if causal else position < starts + lengths[:, None, None]
        if keys.wraps:
            visible = visible & (position >= 0)
        if keys.window is not None:
            visible = visible & (query - position < keys.window)
        return mx.broadcast_to(visible, (len(rows), last - first, keys.capacity))

    def line(self, row: int, keys: Keys, question: Question) -> Line | None:
        """What `attend` takes to bring a row's tree into the order of positions, if it must."""
        if not self._in_line:
            return None
        asked = keys.capacity if keys.wraps else 0, question.heads_per_key
        if asked not in self._lines:
            self._lines[asked] = self._prepared_lines(*asked)
        return self._lines[asked][row]

    @property
    def _in_line(self) -> bool:
        """Whether attention adds up a tree's keys in the order of positions, as without drafts."""
        layout = self.layout
        return layout is not None and layout.lines is not None and orders_keys()

    def _depths(self, rows: Sequence[int], first: int, last: int) -> mx.array:
        """[R, q, 1] or [q, 1] int32: positions of columns, counted from the row's offset."""
        if self.layout is None:
            return mx.arange(first, last, dtype=mx.int32)[:, None]
        return self._of(self.layout.depths, rows)[:, :, None]

    def _across(
        self, rows: Sequence[int], query: mx.array, column: mx.array, keys: Keys, causal: bool
    ) -> mx.array:
        """`visible` where columns do not follow one another.

        ``column`` [R, 1, n]: which column of this forward a place holds, below 0 for tokens before.
        """
        assert self.layout is not None
        depths, sees = (self._of(part, rows) for part in self.layout[:2])
        shape = (len(rows), self.width, keys.capacity)
        column = mx.broadcast_to(column, (len(rows), 1, keys.capacity))
        inside = (column >= 0) & (column < self.width)
        at = mx.clip(column, 0, self.width - 1)
        seen = mx.take_along_axis(sees, mx.broadcast_to(at, shape), axis=2)
        depth = mx.where(column < 0, column, mx.take_along_axis(depths[:, None], at, axis=2))
        starts = self._of(self.offsets, rows)[:, None, None]
        visible = mx.where(inside, seen, (column < 0) & (starts + column >= 0))
        if causal:
            visible = visible & (starts + depth <= query)
        if keys.window is not None:
            visible = visible & (query - starts - depth < keys.window)
        return visible

    def _of(self, array: mx.array, rows: Sequence[int]) -> mx.array:
        return array if len(rows) == len(self.columns) else array[mx.array(list(rows))]

    def _prepared_lines(self, capacity: int, heads_per_key: int) -> list[Line]:
        """For every row; ``capacity`` 0: places do not wrap."""
        assert self.layout is not None
        depths, sees, lines = self.layout
        assert lines is not None
        columns = mx.pad(lines, [(0, 0), (0, 0), (0, self.width - lines.shape[2])])
        places = self.offsets[:, None] + mx.arange(self.width, dtype=mx.int32)
        places = places % capacity if capacity else places
        behind = mx.broadcast_to(depths[:, None], sees.shape)
        folded = (mx.tile(part, (1, heads_per_key, 1)) for part in (columns, behind, sees))
        parts = zip(each(places), *(each(part) for part in folded), strict=True)
        return [Line(*part) for part in parts]

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
