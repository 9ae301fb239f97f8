"""Target features of clean sequences: one causal forward with taps, kept in memory if they fit.

Knows nothing of blocks. The target is frozen: no gradient passes through here.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.masks import causal_mask
from dflash_serve.training.blocks import Example


class CleanCache:
    """A `LayerCache` that holds nothing: every sequence starts at position 0 and is seen whole."""

    def __init__(self, rows: int, length: int) -> None:
        self.offset = mx.zeros(rows, dtype=mx.int32)
        self.attended = length

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values


def target_taps(target: TargetAdapter, tokens: mx.array, layers: tuple[int, ...]) -> mx.array:
    """[S, T] tokens -> [S, T, K * H], the residual stream after each of ``layers``.

    Causal, so what stands in the padding after a sequence does not reach it.
    """
    rows, length = tokens.shape
    cache = CleanCache(rows, length)
    mask = causal_mask(cache.offset, length, length)
    captured = target.forward(tokens, mask, [cache] * target.num_layers, layers)
    assert captured.taps is not None
    return mx.stop_gradient(captured.taps)


class FeatureStore:
    """Computes the features of examples on first use; owns those that fit into ``max_bytes``.

    Float32 features are kept as float16: half the memory, and far below a drafter's own noise.
    """

    def __init__(
        self,
        target: TargetAdapter,
        layers: tuple[int, ...],
        examples: Sequence[Example],
        max_bytes: int,
    ) -> None:
        self._target, self._layers, self._examples = target, layers, examples
        self._room = max_bytes
        self._kept: dict[int, mx.array] = {}  # example -> [T, K * H]

    def batch(self, indices: Sequence[int], length: int) -> mx.array:
        """Features [S, length, K * H] of the named examples, zero behind each one's end."""
        missing = [index for index in dict.fromkeys(indices) if index not in self._kept]
        fresh = dict(zip(missing, self._compute(missing, length), strict=True)) if missing else {}
        rows = [self._kept[index] if index in self._kept else fresh[index] for index in indices]
        padded = [mx.pad(row, [(0, length - row.shape[0]), (0, 0)]) for row in rows]
        for index, row in fresh.items():
            self._keep(index, row)
        return mx.stack(padded)

    def _compute(self, indices: Sequence[int], length: int) -> list[mx.array]:
        tokens = mx.array(pad_tokens([self._examples[index] for index in indices], length))
        taps = target_taps(self._target, tokens, self._layers)
        if taps.dtype == mx.float32:
            taps = taps.astype(mx.float16)
        # A copy per row: a slice would keep the whole padded batch alive.
        rows = [
            mx.contiguous(taps[row, : self._examples[index].length])
            for row, index in enumerate(indices)
        ]
        mx.eval(rows)
        return rows

    def _keep(self, index: int, row: mx.array) -> None:
        if row.nbytes <= self._room:
            self._kept[index] = row
            self._room -= row.nbytes


def pad_tokens(examples: Sequence[Example], length: int) -> np.ndarray:
    """Token ids [S, length] int32, zero behind each one's end."""
    tokens = np.zeros((len(examples), length), dtype=np.int32)
    for row, example in enumerate(examples):
        tokens[row, : example.length] = example.tokens
    return tokens
