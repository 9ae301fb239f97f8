"""Target features of clean sequences: one causal forward with taps, kept in memory or on disk.

Knows nothing of blocks. The target is frozen: no gradient passes through here.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.base import Advance, LayerCache, TargetAdapter
from dflash_serve.adapters.cache_spec import AttentionSpec, LayerSpec, StateSpec
from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.files import FeatureFiles, Features

_ELEMENT_BYTES = 2  # of either dtype
_FLOAT16_MAX = 65504.0


def bytes_per_token(hidden_size: int, taps: int, *, final: bool = False) -> int:
    """What one token's features take in memory; on disk 200 bytes or so per sequence come on top.

    ``taps`` counts the tapped layers, ``final`` adds the target's last hidden states.
    """
    return _ELEMENT_BYTES * hidden_size * (taps + final)


class CleanAttention:
    """An `AttentionCache` for one forward over whole sequences from position 0; keeps nothing."""

    def __init__(self, spec: AttentionSpec, rows: int) -> None:
        self._window = spec.window
        self._own: tuple[mx.array, mx.array] | None = None
        self.offset = mx.zeros(rows, dtype=mx.int32)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self._own = keys, values
        return self._own

    def attend(
        self,
        queries: mx.array,
        scale: float,
        *,
        causal: bool = True,
        sinks: mx.array | None = None,
    ) -> mx.array:
        assert causal
        assert self._own is not None
        keys, values = self._own
        mask: mx.array | str = "causal"
        if self._window is not None:
            position = mx.arange(queries.shape[2])
            age = position[:, None] - position
            mask = (age >= 0) & (age < self._window)
        return mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=scale, mask=mask, sinks=sinks
        )


class CleanState:
    """A `StateCache` of sequences that start with the first of ``length`` tokens."""

    def __init__(self, spec: StateSpec, rows: int, length: int) -> None:
        self.state = tuple(mx.zeros((rows, *one.shape), dtype=one.dtype) for one in spec.arrays)
        self.lengths = mx.full((rows,), length, dtype=mx.int32)
        self.mask = mx.ones((rows, length), dtype=mx.bool_)

    def record(self, advance: Advance) -> None:
        """Nothing follows these tokens, so their state is not needed."""


def clean_caches(specs: Sequence[LayerSpec], rows: int, length: int) -> list[LayerCache]:
    """Caches for one forward of [rows, length] tokens from position 0, which keep nothing."""
    caches: list[LayerCache] = []
    for spec in specs:
        if isinstance(spec, StateSpec):
            caches.append(CleanState(spec, rows, length))
        else:
            caches.append(CleanAttention(spec, rows))
    return caches


def target_features(
    target: TargetAdapter, tokens: mx.array, layers: tuple[int, ...], *, final: bool = False
) -> Features:
    """[S, T] tokens -> features in the target's own dtype.

    Causal, so what stands in the padding after a sequence does not reach it.
    """
    captured = target.forward(tokens, clean_caches(target.cache_specs, *tokens.shape), layers)
    assert captured.taps is not None
    hidden = mx.stop_gradient(captured.hidden) if final else None
    return Features(mx.stop_gradient(captured.taps), hidden)


class FeatureStore:
    """Computes the features of examples on first use; owns those that fit into ``max_bytes``.

    Float32 features are kept as ``dtype``: half the memory, and far below a drafter's own noise.
    Rows come from memory, from ``files``, or from the target, and are the same either way.
    """

    def __init__(
        self,
        target: TargetAdapter,
        layers: tuple[int, ...],
        examples: Sequence[Example],
        max_bytes: int,
        *,
        final: bool = False,
        dtype: mx.Dtype = mx.float16,
        files: FeatureFiles | None = None,
    ) -> None:
        self._target, self._layers, self._examples = target, layers, examples
        self._room, self._final, self._dtype, self._files = max_bytes, final, dtype, files
        self._kept: dict[int, Features] = {}

    def batch(self, indices: Sequence[int], length: int) -> Features:
        """Features [S, length, ...] of the named examples."""
        found = {index: self._find(index) for index in indices}
        missing = [index for index, row in found.items() if row is None]
        fresh = dict(zip(missing, self._compute(missing, length), strict=True)) if missing else {}
        for index, made in fresh.items():
            self._keep(index, made)
        rows = [found[index] or fresh[index] for index in indices]
        taps = mx.stack([_padded(row.taps, length) for row in rows])
        finals = [_padded(row.final, length) for row in rows if row.final is not None]
        return Features(taps, mx.stack(finals) if finals else None)

    def close(self) -> None:
        """Write what has not been written yet."""
        if self._files is not None:
            self._files.close()

    def _find(self, index: int) -> Features | None:
        if index in self._kept:
            return self._kept[index]
        return self._files.get(index) if self._files is not None else None

    def _compute(self, indices: Sequence[int], length: int) -> list[Features]:
        tokens = mx.array(pad_tokens([self._examples[index] for index in indices], length))
        made = target_features(self._target, tokens, self._layers, final=self._final)
        lengths = [self._examples[index].length for index in indices]
        taps = self._rows(made.taps, lengths)
        finals = self._rows(made.final, lengths) if made.final is not None else [None] * len(taps)
        return [Features(tap, final) for tap, final in zip(taps, finals, strict=True)]

    def _rows(self, values: mx.array, lengths: Sequence[int]) -> list[mx.array]:
        if values.dtype == mx.float32:
            largest = float(np.array(mx.abs(values).max()))
            if self._dtype == mx.float16 and largest > _FLOAT16_MAX:
                raise DataError(
                    f"a feature of the target is {largest:.0f}, more than float16 holds: "
                    "keep them as bfloat16 (--feature-dtype)"
                )
            values = values.astype(self._dtype)
        # A copy per row: a slice would keep the whole padded batch alive.
        rows = [mx.contiguous(values[row, :length]) for row, length in enumerate(lengths)]
        mx.eval(rows)
        return rows

    def _keep(self, index: int, row: Features) -> None:
        if self._files is not None:
            self._files.put(index, row)
        elif row.nbytes <= self._room:
            self._kept[index] = row
            self._room -= row.nbytes


def pad_tokens(examples: Sequence[Example], length: int) -> np.ndarray:
    """Token ids [S, length] int32, zero behind each one's end."""
    tokens = np.zeros((len(examples), length), dtype=np.int32)
    for row, example in enumerate(examples):
        tokens[row, : example.length] = example.tokens
    return tokens


def _padded(row: mx.array, length: int) -> mx.array:
    return mx.pad(row, [(0, length - row.shape[0]), (0, 0)])
