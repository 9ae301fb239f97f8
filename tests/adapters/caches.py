"""Rows of a model in the engine's caches, driven by hand."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import mlx.core as mx

from dflash_serve.adapters.base import LayerCache
from dflash_serve.adapters.cache_spec import LayerSpec, StateSpec
from dflash_serve.engine.cache.attention import AttentionStore
from dflash_serve.engine.cache.span import Span
from dflash_serve.engine.cache.stores import ModelStore, Row, committed

T = TypeVar("T")


class Rows(Protocol):
    """Rows of any cache; see `tests.adapters.dense.DenseRows`, which is the other one."""

    lengths: list[int]

    def run(
        self,
        existing: Sequence[int],
        width: int,
        forward: Callable[[list[LayerCache]], T],
        keep: Sequence[int] | None = None,
    ) -> T: ...


class EngineRows:
    """``lengths[r]`` tokens of row r are committed."""

    def __init__(self, specs: Sequence[LayerSpec], rows: int) -> None:
        self.lengths = [0] * rows
        self._store = ModelStore(specs)
        self._rows: list[Row] = [[] for _ in range(rows)]

    def run(
        self,
        existing: Sequence[int],
        width: int,
        forward: Callable[[list[LayerCache]], T],
        keep: Sequence[int] | None = None,
    ) -> T:
        """One forward of ``width`` padded tokens per row, ``existing[r]`` of them real.

        The first ``keep[r]`` stay; all that are real where it is not given, as of a prompt's chunk:
        then padding is not written, and a chunk may be longer than a ring has room for drafts.
        """
        columns = tuple(existing) if keep is None else (width,) * len(self._rows)
        rows = zip(self._rows, self.lengths, columns, strict=True)
        self._rows = [self._store.fit(row, length + more) for row, length, more in rows]
        offsets, lengths = (
            mx.array(list(values), dtype=mx.int32) for values in (self.lengths, existing)
        )
        span = Span(offsets, lengths, width, columns)
        views = self._store.views(self._rows, span)
        result = forward(list(views))
        kept = list(existing if keep is None else keep)
        counts = lengths if keep is None else mx.array(kept, dtype=mx.int32)
        left = zip(committed(views, counts), self.lengths, strict=True)
        self._rows = [self._store.settled(row, length) for row, length in left]
        self.lengths = [length + more for length, more in zip(self.lengths, kept, strict=True)]
        mx.eval(result, self._rows)
        return result


def held(specs: Sequence[LayerSpec], row: Row, length: int) -> list[mx.array]:
    """All arrays of a row of ``length`` tokens that the next one sees; keys by their positions."""
    found: list[mx.array] = []
    for spec, arrays in zip(specs, row, strict=True):
        if isinstance(spec, StateSpec):
            found += arrays
            continue
        first = 0 if spec.window is None else max(0, length - spec.window + 1)
        capacity = AttentionStore(spec).keys(arrays).capacity
        places = mx.array([position % capacity for position in range(first, length)])
        found += [array[:, :, places] for array in arrays]
    return found
