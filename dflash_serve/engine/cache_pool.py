"""Attention keys and values of all slots, on the device. Rollback moves a number on the host.

Row r writes at its own offset; rows that a batch pads to write to the last row of the store,
which no mask ever shows. Knows no sequences: lengths come with each forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from dflash_serve.adapters.base import CacheLayout
from dflash_serve.engine.plan import Move

_STEP = 64


def bucket(tokens: int) -> int:
    """Round up to 64, and beyond 512 to an eighth to a quarter of the size: few shapes to trace."""
    step = max(_STEP, 1 << max(0, tokens.bit_length() - 3))
    return -(-tokens // step) * step


class SlotCache:
    """One model's store: per layer keys and values [slots, kv_heads, capacity, head_dim].

    Owner of the arrays. ``take`` hands them to one forward, which replaces them by ``put``: in
    between nothing else refers to them, so writes happen in place.
    """

    def __init__(self, layout: CacheLayout) -> None:
        self._layout = layout
        self._slots = 0
        self._capacity = 0
        self._arrays: list[mx.array] = []  # keys of layer 0, values of layer 0, keys of ...

    @property
    def trash(self) -> int:
        """The row that padding writes to: the last one, whatever the capacity.

        Counted from the end, so that growing leaves this constant of a compiled graph as it is.
        """
        return -1

    @property
    def arrays(self) -> list[mx.array]:
        """For evaluation only."""
        return self._arrays

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays)

    def reserve(self, slots: int, tokens: int) -> None:
        """Make room for ``tokens`` per slot in ``slots`` slots; contents stay."""
        if slots <= self._slots and tokens < self._capacity:
            return
        slots = max(slots, self._slots)
        capacity = max(bucket(tokens + 1), self._capacity)
        shape = (slots, self._layout.kv_heads, capacity, self._layout.head_dim)
        grown = []
        for index in range(2 * self._layout.layers):
            new = mx.zeros(shape, dtype=self._layout.dtype)
            if self._arrays:
                new[: self._slots, :, : self._capacity] = self._arrays[index]
            grown.append(new)
        self._arrays, self._slots, self._capacity = grown, slots, capacity

    def apply(self, moves: Sequence[Move]) -> None:
        """Copy or swap whole slots. A slot that was never written has nothing to bring along."""
        for move in moves:
            if move.source >= self._slots:
                continue
            for array in self._arrays:
                moved = array[move.source]
                if move.swap:
                    array[move.source] = array[move.target]
                array[move.target] = moved

    def take(self) -> list[mx.array]:
        """Hand out the arrays; the store is empty until `put`."""
        arrays, self._arrays = self._arrays, []
        return arrays

    def put(self, arrays: list[mx.array]) -> None:
        self._arrays = arrays


@dataclass(frozen=True, slots=True)
class SpanShape:
    """The constants of a traced forward: padded width, attended rows, trash row."""

    width: int
    attended: int
    trash: int


class LayerView:
    """One layer's rows in one forward: the `LayerCache` that model code calls."""

    def __init__(self, keys: mx.array, values: mx.array, rows: "RowSpan") -> None:
        self.keys = keys
        self.values = values
        self._rows = rows

    @property
    def offset(self) -> mx.array:
        return self._rows.offsets

    @property
    def attended(self) -> int:
        return self._rows.attended

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        rows = self._rows
        at = (rows.slots, slice(None), rows.positions)
        self.keys[at] = keys.transpose(0, 2, 1, 3).astype(self.keys.dtype)
        self.values[at] = values.transpose(0, 2, 1, 3).astype(self.values.dtype)
        return self.fetch()

    def fetch(self) -> tuple[mx.array, mx.array]:
        """What is stored of these rows: keys and values [R, kv_heads, attended, head_dim]."""
        rows = self._rows
        span = slice(rows.first, rows.first + rows.offsets.shape[0])
        return self.keys[span, :, : rows.attended], self.values[span, :, : rows.attended]


class HeldView(LayerView):
    """One layer's rows in a forward over tokens that the store holds already: it only reads.

    The stored keys and values are the very ones that the forward would write.
    """

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return self.fetch()


class RowSpan:
    """Where the rows of one forward read and write: slots [first, first + R), ragged lengths.

    offsets [R] int32 tokens held before; lengths [R] int32 tokens that exist of ``width``.
    positions [R, width]: offset + i for i < length, else the trash row.
    """

    def __init__(self, first: int, offsets: mx.array, lengths: mx.array, shape: SpanShape) -> None:
        step = mx.arange(shape.width, dtype=mx.int32)
        self.first = first
        self.offsets = offsets
        self.lengths = lengths
        self.width = shape.width
        self.attended = shape.attended
        self.slots = mx.arange(first, first + offsets.shape[0], dtype=mx.int32)[:, None]
        self.positions = mx.where(step < lengths[:, None], offsets[:, None] + step, shape.trash)

    def views(self, arrays: list[mx.array], kind: type[LayerView] = LayerView) -> list[LayerView]:
        pairs = zip(arrays[::2], arrays[1::2], strict=True)
        return [kind(keys, values, self) for keys, values in pairs]


def stored(views: Sequence[LayerView]) -> list[mx.array]:
    """The arrays of a forward's views, in the order of `SlotCache.take`."""
    return [array for view in views for array in (view.keys, view.values)]
