"""Caches written out plainly: a second implementation to compare the engine's with.

A row's keys and values stand in the order of their positions, nothing wraps, rows share nothing,
and a forward's tokens are added when it is known which of them stay.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import mlx.core as mx

from dflash_serve.adapters.base import Advance, LayerCache
from dflash_serve.adapters.cache_spec import AttentionSpec, LayerSpec, StateSpec

T = TypeVar("T")


class DenseRows:
    """What ``rows`` rows hold of a model with these layers: ``lengths[r]`` tokens of row r."""

    def __init__(self, specs: Sequence[LayerSpec], rows: int) -> None:
        self.lengths = [0] * rows
        self.layers = [
            _State(spec, rows) if isinstance(spec, StateSpec) else _Attention(spec, rows)
            for spec in specs
        ]

    def run(
        self,
        existing: Sequence[int],
        width: int,
        forward: Callable[[list[LayerCache]], T],
        keep: Sequence[int] | None = None,
    ) -> T:
        """One forward of ``width`` padded tokens per row, ``existing[r]`` of them real.

        The first ``keep[r]`` stay; all that are real where it is not given.
        """
        for layer in self.layers:
            layer.begin(self.lengths, existing, width)
        result = forward(list(self.layers))
        kept = list(existing if keep is None else keep)
        for layer in self.layers:
            layer.settle(kept)
        self.lengths = [length + more for length, more in zip(self.lengths, kept, strict=True)]
        mx.eval(result)
        return result


class PlacedRows(DenseRows):
    """The same, whose offsets are a position for each token. For layers that attend."""

    def run(
        self,
        existing: Sequence[int],
        width: int,
        forward: Callable[[list[LayerCache]], T],
        keep: Sequence[int] | None = None,
    ) -> T:
        """As in `DenseRows`."""

        def placed(layers: list[LayerCache]) -> T:
            for layer in self.layers:
                assert isinstance(layer, _Attention)
                layer.offset = layer.offset[:, None] + mx.arange(width, dtype=mx.int32)
            return forward(layers)

        return super().run(existing, width, placed, keep)


class _Attention:
    def __init__(self, spec: AttentionSpec, rows: int) -> None:
        self._window = spec.window
        empty = mx.zeros((1, spec.kv_heads, 0, spec.head_dim), dtype=spec.dtype)
        self._held = [(empty, empty)] * rows
        self._with_new = self._held
        self._lengths: Sequence[int] = ()
        self._existing: Sequence[int] = ()
        self.offset = mx.array([])

    def begin(self, lengths: Sequence[int], existing: Sequence[int], width: int) -> None:
        self.offset = mx.array(list(lengths), dtype=mx.int32)
        self._lengths, self._existing = list(lengths), existing

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self._with_new = [
            (
                mx.concatenate([held_keys, keys[row : row + 1, :, :count]], axis=2),
                mx.concatenate([held_values, values[row : row + 1, :, :count]], axis=2),
            )
            for row, ((held_keys, held_values), count) in enumerate(
                zip(self._held, self._existing, strict=True)
            )
        ]
        return keys, values

    def attend(
        self,
        queries: mx.array,
        scale: float,
        *,
        causal: bool = True,
        sinks: mx.array | None = None,
    ) -> mx.array:
        outputs = []
        for row, held in enumerate(self._with_new):
            count = self._existing[row]
            # a key that none sees: CPUs add up the score of a lone key in another order
            keys, values = (mx.pad(one, [(0, 0), (0, 0), (0, 1), (0, 0)]) for one in held)
            key = mx.arange(keys.shape[2])
            query = self._lengths[row] + mx.arange(count)[:, None]
            mask = (
                key <= query if causal else mx.broadcast_to(key < key.size - 1, (count, key.size))
            )
            if self._window is not None:
                mask = mask & (query - key < self._window)
            out = mx.fast.scaled_dot_product_attention(
                queries[row : row + 1, :, :count], keys, values, scale=scale, mask=mask, sinks=sinks
            )
            outputs.append(mx.pad(out, [(0, 0), (0, 0), (0, queries.shape[2] - count), (0, 0)]))
        return mx.concatenate(outputs)

    def settle(self, keep: Sequence[int]) -> None:
        ends = [length + count for length, count in zip(self._lengths, keep, strict=True)]
        self._held = [
            (keys[:, :, :end], values[:, :, :end])
            for (keys, values), end in zip(self._with_new, ends, strict=True)
        ]
        mx.eval(self._held)


class _State:
    def __init__(self, spec: StateSpec, rows: int) -> None:
        self.state = tuple(mx.zeros((rows, *one.shape), dtype=one.dtype) for one in spec.arrays)
        self.lengths = self.mask = mx.array([])
        self._advance: Advance | None = None

    def begin(self, lengths: Sequence[int], existing: Sequence[int], width: int) -> None:
        self.lengths = mx.array(list(existing), dtype=mx.int32)
        self.mask = mx.arange(width) < self.lengths[:, None]
        self._advance = None

    def record(self, advance: Advance) -> None:
        assert self._advance is None, "a forward records once"
        self._advance = advance

    def settle(self, keep: Sequence[int]) -> None:
        assert self._advance is not None, "a forward records once"
        self.state = self._advance(self.state, mx.array(list(keep), dtype=mx.int32))
        mx.eval(self.state)
