"""Keys and values of attention layers: what one layer keeps of one row, and its view in a forward.

A row writes at its own positions. Rollback moves the row's length, which the engine knows: keys
behind it are never visible and are written over. With a sliding window the arrays are a ring.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.engine.cache.span import Keys, Question, Span, each
from dflash_serve.engine.config import SPARE_TOKENS
from dflash_serve.kernels.attention import attend, attended, prepared_queries
from dflash_serve.kernels.dispatch import Backend, default_backend

SPARE = SPARE_TOKENS
"""Places of a ring beyond its window: a forward writes that many tokens before they are kept.

The same whatever the block, so that a token's keys are added up in the same order with and without
drafts.
"""
_STEP = 64
Arrays = list[mx.array]
"""What one layer keeps of one row; empty until the row's first token.

Behind a round also what `AttentionStore.settled` writes: an array that was read is copied when it
is written in the same evaluation, so what is known after attention waits for the next one.
"""


def bucket(tokens: int) -> int:
    """Round up to 64, and beyond 1,024 to a sixteenth to an eighth of the size.

    Attention on GPUs reads all places of a row; each number of places is a shape to trace.
    """
    step = max(_STEP, 1 << max(0, tokens.bit_length() - 4))
    return -(-tokens // step) * step


class AttentionStore:
    """One attention layer: rows of keys and values [1, kv_heads, capacity, head_dim]."""

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec
        self.ring = None if spec.window is None else bucket(spec.window) + SPARE

    def capacity(self, tokens: int) -> int:
        """Places of a row that holds ``tokens`` tokens."""
        places = bucket(tokens)
        return places if self.ring is None else min(places, self.ring)

    def nbytes(self, tokens: int) -> int:
        """Bytes of a row that holds ``tokens`` tokens."""
        spec = self.spec
        return 2 * spec.kv_heads * self.capacity(tokens) * spec.head_dim * spec.dtype.size

    def transient(self, tokens: int) -> int:
        """Bytes that growing to ``tokens`` takes beside what the row takes after it."""
        return self.nbytes(tokens)

    def fit(self, arrays: Arrays, tokens: int) -> Arrays:
        """A row's arrays with room for ``tokens``, which are no fewer than it holds."""
        spec, places = self.spec, self.capacity(tokens)
        if not arrays:
            shape = (1, spec.kv_heads, places, spec.head_dim)
            return [mx.zeros(shape, dtype=spec.dtype) for _ in range(2)]
        held = arrays[0].shape[2]
        if places == held:
            return arrays
        if places < held:
            return [mx.contiguous(array[:, :, :places]) for array in arrays]
        room = [(0, 0), (0, 0), (0, places - held), (0, 0)]
        return [mx.pad(array, room) for array in arrays]

    def view(self, rows: Sequence[Arrays], span: Span, held: bool = False) -> "AttentionView":
        """The rows in a forward; ``held``: it runs over tokens that they hold, and only reads."""
        assert all(len(arrays) == 2 for arrays in rows), "a forward comes before `settled`"
        return (HeldView if held else AttentionView)(self, rows, span)

    def settled(self, arrays: Arrays, positions: mx.array) -> Arrays:
        """Keys and values, with what a forward left to be written at ``positions`` [n]."""
        olds, news = arrays[:2], arrays[2:]
        if not news:
            return arrays
        return [self.written(old, new, positions) for old, new in zip(olds, news, strict=True)]

    def written(self, old: mx.array, new: mx.array, positions: mx.array) -> mx.array:
        """[1, kv_heads, n, d] with [1, kv_heads, q, d] at ``positions`` [q], one behind the other.

        On GPUs by place, which is one kernel and not two.
        """
        keys = self.keys([old])
        if not keys.wraps and default_backend() is Backend.PLAIN:
            return mx.slice_update(old, new, positions[:1], (2,))
        places = positions % keys.capacity if keys.wraps else positions
        return mx.put_along_axis(old, mx.broadcast_to(places[:, None], new.shape), new, axis=2)

    def turns(self, start: int, columns: int) -> bool:
        """Whether a ring ends within ``columns`` columns behind ``start`` tokens."""
        return self.ring is not None and start % self.ring + columns > self.ring

    def keys(self, arrays: Arrays) -> Keys:
        """How the keys of a row are placed."""
        places = arrays[0].shape[2]
        return Keys(places, self.spec.window, wraps=places == self.ring)


class AttentionView:
    """An `AttentionCache` over rows of one `AttentionStore`: attention runs row by row.

    Rows share no array, so none pays for another's length, in memory or in time.
    """

    def __init__(self, store: AttentionStore, rows: Sequence[Arrays], span: Span) -> None:
        self._store = store
        self._rows = list(rows)
        self._span = span
        self._new: tuple[list[mx.array], list[mx.array]] | None = None
        self._unwritten = False

    @property
    def offset(self) -> mx.array:
        return self._span.positions

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        dtype = self._store.spec.dtype
        self._new = each(keys.astype(dtype)), each(values.astype(dtype))
        self._unwritten = True
        return keys, values

    def attend(
        self,
        queries: mx.array,
        scale: float,
        *,
        causal: bool = True,
        sinks: mx.array | None = None,
    ) -> mx.array:
        heads_per_key = queries.shape[1] // self._store.spec.kv_heads
        question = Question(causal, heads_per_key, self._store.spec.dtype)
        whole = all(self._pieces(row) == [(0, self._span.width)] for row in range(len(self._rows)))
        assert whole or self._span.layout is None, "a tree is wider than a ring can roll back"
        attend_to = self._whole if whole else self._cut
        out = attend_to(queries, scale, question, sinks)
        self._unwritten = False
        return out

    def _whole(
        self, queries: mx.array, scale: float, question: Question, sinks: mx.array | None
    ) -> mx.array:
        """Every row fills the forward and is written before it is attended."""
        for row in range(len(self._rows)):
            self._write(row, 0, self._span.width)
        placed = [self._store.keys(arrays) for arrays in self._rows]
        masks = self._span.masks(placed, question)
        lines = [self._span.line(row, keys, question) for row, keys in enumerate(placed)]
        prepared = each(prepared_queries(queries, self._store.spec.kv_heads))
        rows = [
            attend(own, keys, values, mask, scale, sinks, line)
            for own, (keys, values), mask, line in zip(
                prepared, self._rows, masks, lines, strict=True
            )
        ]
        return attended(rows, queries.shape[1])

    def _cut(
        self, queries: mx.array, scale: float, question: Question, sinks: mx.array | None
    ) -> mx.array:
        """Rows of their own lengths, a ring's in pieces: each is written and then attended."""
        rows = []
        for row, own in enumerate(each(queries)):
            parts = []
            for first, last in self._pieces(row):
                self._write(row, first, last)
                mask = self._span.mask(
                    row, first, last, self._store.keys(self._rows[row]), question
                )
                keys, values = self._rows[row]
                part = prepared_queries(own[:, :, first:last], self._store.spec.kv_heads)
                out = attend(part, keys, values, mask, scale, sinks)
                parts.append(attended([out], queries.shape[1]))
            rows.append(self._padded(parts))
        return _joined(rows)

    def commit(self, counts: mx.array, path: mx.array | None = None) -> list[Arrays]:
        """The rows' arrays behind this forward. A length decides what of them is kept.

        ``path`` [R, L] int32: the columns of a tree that stay, each at its depth's place from now.
        """
        if path is not None:
            return [self._left(row, own[0]) for row, own in enumerate(each(path))]
        if not self._unwritten:
            return self._rows
        if self._span.width <= SPARE:
            return [self._left(row) for row in range(len(self._rows))]
        for row in range(len(self._rows)):
            for first, last in self._pieces(row):
                self._write(row, first, last)
        return self._rows

    def _left(self, row: int, path: mx.array | None = None) -> Arrays:
        """A row's arrays and what is to be written: all its columns, or those of ``path`` [L]."""
        assert self._new is not None
        columns = self._span.columns[row]
        news = [new[row] for new in self._new]
        if path is not None:
            news = [mx.take(new, path, axis=2) for new in news]
        elif columns < self._span.width:
            news = [new[:, :, :columns] for new in news]
        return [*self._rows[row], *news]

    def _pieces(self, row: int) -> list[tuple[int, int]]:
        """Columns of a row, as many at a time as may be written before they are attended."""
        columns = self._span.columns[row]
        if not self._store.keys(self._rows[row]).wraps:
            return [(0, columns)]
        return [(first, min(first + SPARE, columns)) for first in range(0, columns, SPARE)]

    def _write(self, row: int, first: int, last: int) -> None:
        assert self._new is not None  # attention follows its own update
        whole = last - first == self._span.width
        news = [new[row] if whole else new[row][:, :, first:last] for new in self._new]
        positions = self._span.written_at(row, first, last)
        pairs = zip(self._rows[row], news, strict=True)
        self._rows[row] = [self._store.written(old, new, positions) for old, new in pairs]

    def _padded(self, parts: list[mx.array]) -> mx.array:
        """Outputs of a row's pieces, with zeros for the columns that it does not fill."""
        missing = self._span.width - sum(part.shape[2] for part in parts)
        if missing:
            shape = parts[0].shape
            empty = mx.zeros((*shape[:2], missing, shape[3]), dtype=parts[0].dtype)
            parts = [*parts, empty]
        return _joined(parts, axis=2)


class HeldView(AttentionView):
    """A forward over tokens whose keys and values the rows hold already: nothing is written.

    They are the very ones that the forward would write. For stores without a window: a ring has
    dropped what older tokens saw.
    """

    def _write(self, row: int, first: int, last: int) -> None:
        assert self._store.spec.window is None


def _joined(parts: list[mx.array], axis: int = 0) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)
