"""Recurrent states: cut back to any number of a forward's tokens, row by row."""

import gc

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.cache_spec import StateArray, StateSpec
from dflash_serve.engine.cache.attention import Arrays
from dflash_serve.engine.cache.span import Span
from dflash_serve.engine.cache.state import StateStore, StateView

SPEC = StateSpec((StateArray((3,), mx.float32), StateArray((2, 2), mx.float16)))


def forward(
    store: StateStore, rows: list[Arrays], tokens: mx.array, kept: list[int]
) -> list[Arrays]:
    """A layer whose state is the sum of the tokens that it has seen, in both arrays."""
    count, width = tokens.shape
    lengths = mx.full((count,), width, dtype=mx.int32)
    view = store.view(rows, Span(mx.zeros_like(lengths), lengths, width, (width,) * count))

    def advance(before: tuple[mx.array, ...], counts: mx.array) -> tuple[mx.array, ...]:
        seen = mx.where(mx.arange(width) < counts[:, None], tokens, 0).sum(axis=1)
        return tuple(array + seen.reshape(-1, *[1] * (array.ndim - 1)) for array in before)

    view.record(advance)
    return view.commit(mx.array(kept, dtype=mx.int32))


def test_a_row_keeps_the_state_behind_its_own_tokens() -> None:
    store = StateStore(SPEC)
    rows = [store.fit([], 1) for _ in range(3)]
    tokens = mx.array([[1, 2, 4], [1, 2, 4], [1, 2, 4]], dtype=mx.float32)
    for expected in (([1, 7, 0]), ([2, 14, 0])):
        rows = forward(store, rows, tokens, [1, 3, 0])
        for row, total in zip(rows, expected, strict=True):
            assert [array.dtype for array in row] == [mx.float32, mx.float16]
            assert [array.shape for array in row] == [(1, 3), (1, 2, 2)]
            assert all(np.all(np.array(array) == total) for array in row)


def test_a_forward_is_let_go_when_its_tokens_are_counted() -> None:
    """Without waiting for the garbage collector: it holds what the layer computed of all tokens."""
    store = StateStore(StateSpec((StateArray((1,), mx.float32),)))
    lengths = mx.array([4], dtype=mx.int32)
    view = store.view([store.fit([], 1)], Span(mx.zeros_like(lengths), lengths, 4, (4,)))
    computed = [mx.ones((1 << 18,))]
    mx.eval(computed)

    def record(view: StateView, computed: list[mx.array]) -> None:
        """As layers do, what is recorded refers to the view that refers to it."""

        def advance(before: tuple[mx.array, ...], counts: mx.array) -> tuple[mx.array, ...]:
            assert counts is view.lengths
            return tuple(array + computed[0].sum() for array in before)

        view.record(advance)

    record(view, computed)
    gc.disable()
    try:
        mx.eval(view.commit(lengths))
        held = mx.get_active_memory()
        del view, computed
        assert held - mx.get_active_memory() >= 4 << 18
    finally:
        gc.enable()


def test_bytes_do_not_depend_on_the_length() -> None:
    store = StateStore(SPEC)
    row = store.fit([], 5)
    assert store.nbytes(1) == store.nbytes(10**6) == sum(array.nbytes for array in row)
    assert store.fit(row, 9000) is row
