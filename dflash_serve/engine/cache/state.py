"""States of recurrent and convolution layers: what one layer keeps of one row, and its view.

A state cannot be cut back. A forward leaves a function that gives the state behind any number of
its tokens, and `commit` calls it when that number is known.
"""

from collections.abc import Sequence

import mlx.core as mx

from dflash_serve.adapters.base import Advance
from dflash_serve.adapters.cache_spec import StateSpec
from dflash_serve.engine.cache.attention import Arrays
from dflash_serve.engine.cache.span import Span, each


class StateStore:
    """One recurrent layer: the state's arrays [1, ...] per row, whatever the row's length."""

    def __init__(self, spec: StateSpec) -> None:
        self.spec = spec

    def nbytes(self, tokens: int) -> int:
        """Bytes of a row's state."""
        sizes = ((array.shape, array.dtype.size) for array in self.spec.arrays)
        return sum(_product(shape) * size for shape, size in sizes)

    def transient(self, tokens: int) -> int:
        """Bytes that a forward takes beside them: it makes the next state out of the last."""
        return self.nbytes(tokens)

    def fit(self, arrays: Arrays, tokens: int) -> Arrays:
        """A row's state; it begins as zeros."""
        return arrays or [mx.zeros((1, *one.shape), dtype=one.dtype) for one in self.spec.arrays]

    def settled(self, arrays: Arrays, positions: mx.array) -> Arrays:
        """Nothing is ever left to be written."""
        return arrays

    def view(self, rows: Sequence[Arrays], span: Span, held: bool = False) -> "StateView":
        """The rows in a forward."""
        assert not held, "a state does not hold what an earlier token saw"
        return StateView(rows, span)


class StateView:
    """A `StateCache` over rows of one `StateStore`."""

    def __init__(self, rows: Sequence[Arrays], span: Span) -> None:
        self._span = span
        self._state = tuple(
            arrays[0] if len(rows) == 1 else mx.concatenate(list(arrays))
            for arrays in zip(*rows, strict=True)
        )
        self._advance: Advance | None = None

    @property
    def lengths(self) -> mx.array:
        return self._span.lengths

    @property
    def mask(self) -> mx.array:
        return self._span.exists

    @property
    def state(self) -> tuple[mx.array, ...]:
        return self._state

    def record(self, advance: Advance) -> None:
        self._advance = advance

    def commit(self, counts: mx.array, path: mx.array | None = None) -> list[Arrays]:
        """The rows' states behind the first ``counts`` [R] of this forward's tokens."""
        assert path is None, "a state has no branches"
        # let go: the function refers to this view, and holds what its forward computed
        advance, self._advance = self._advance, None
        assert advance is not None, "a recurrent layer recorded nothing"
        before, self._state = self._state, ()
        after = advance(before, counts)
        parts = [each(array.astype(old.dtype)) for array, old in zip(after, before, strict=True)]
        return [list(arrays) for arrays in zip(*parts, strict=True)]


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
