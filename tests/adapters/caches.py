"""Rows of a model in real slot caches, driven by hand."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import mlx.core as mx

from dflash_serve.adapters.base import CacheLayout
from dflash_serve.engine.cache_pool import LayerView, RowSpan, SlotCache, SpanShape, stored

T = TypeVar("T")


class Rows:
    """``lengths[r]`` tokens of row r are committed; a test moves them as it likes."""

    def __init__(self, layout: CacheLayout, rows: int, room: int, first: int = 0) -> None:
        self.cache = SlotCache(layout)
        self.cache.reserve(first + rows, room)
        self.lengths = [0] * rows
        self.first = first
        self.attended = room

    def run(
        self, existing: Sequence[int], width: int, forward: Callable[[list[LayerView]], T]
    ) -> T:
        """One forward of ``width`` padded tokens per row, ``existing[r]`` of them real."""
        span = RowSpan(
            self.first,
            mx.array(self.lengths, dtype=mx.int32),
            mx.array(list(existing), dtype=mx.int32),
            SpanShape(width, self.attended, self.cache.trash),
        )
        views = span.views(self.cache.take())
        result = forward(views)
        self.cache.put(stored(views))
        mx.eval(self.cache.arrays, result)
        return result

    def spoil(self, value: float) -> None:
        """Overwrite every key and value that no committed token owns."""
        spoiled = []
        for array in self.cache.take():
            at = mx.arange(array.shape[2])[None, None, :, None]
            owned = mx.array([0] * self.first + self.lengths)[:, None, None, None]
            spoiled.append(mx.where(at < owned, array, mx.array(value, dtype=array.dtype)))
        self.cache.put(spoiled)
