"""Rows of keys and values: what is attended, in any cutting, and what it costs in bytes."""

import random
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.engine.cache.attention import (
    SPARE,
    Arrays,
    AttentionStore,
    AttentionView,
    bucket,
)
from dflash_serve.engine.cache.layout import tree
from dflash_serve.engine.cache.native import NativeView
from dflash_serve.engine.cache.span import Span
from dflash_serve.kernels.native import native

KV, HEADS, DIM = 2, 4, 8
WIDE = 128
"""Of heads whose keys are most of what a forward holds."""
SCALE = DIM**-0.5
WINDOW = 40


def store(window: int | None) -> AttentionStore:
    return AttentionStore(AttentionSpec(KV, DIM, mx.float32, window))


class Text:
    """Queries, keys and values of each position of one row, the same whenever asked for."""

    def __init__(self, seed: int, length: int) -> None:
        draws = np.random.default_rng(seed)
        self.queries = draws.normal(size=(HEADS, length, DIM)).astype(np.float32)
        self.keys = draws.normal(size=(KV, length, DIM)).astype(np.float32)
        self.values = draws.normal(size=(KV, length, DIM)).astype(np.float32)

    def dense(self, window: int | None) -> np.ndarray:
        """Attention of every position over those before it [heads, length, dim], in float64."""
        length = self.keys.shape[1]
        at = np.arange(length)
        hidden = at[None] > at[:, None]
        if window is not None:
            hidden |= at[:, None] - at[None] >= window
        keys, values = (np.repeat(x, HEADS // KV, axis=0) for x in (self.keys, self.values))
        scores = self.queries.astype(np.float64) @ keys.swapaxes(1, 2) * SCALE
        scores[:, hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        result: np.ndarray = weights / weights.sum(axis=-1, keepdims=True) @ values
        return result


ViewOf = Callable[..., AttentionView]


@pytest.fixture(params=["operations", "extension"])
def view_of(request: pytest.FixtureRequest) -> ViewOf:
    """(a store, rows, span, held=False) -> their view, by MLX's operations or the extension's."""
    if request.param == "operations":
        return AttentionStore.view
    module = native()
    if module is None:
        pytest.skip("the extension was not built here")

    def view(
        layer: AttentionStore, rows: Sequence[Arrays], span: Span, held: bool = False
    ) -> AttentionView:
        return NativeView(module, layer, rows, span, held)

    return view


class Cut:
    """Rows of one layer that are read in forwards of given lengths."""

    def __init__(self, view_of: ViewOf, window: int | None, texts: Sequence[Text]) -> None:
        self.view_of = view_of
        self.store = store(window)
        self.texts = texts
        self.rows: list[Arrays] = [[] for _ in texts]
        self.held = [0] * len(texts)
        self.out = [np.zeros_like(text.queries) for text in texts]

    def read(self, lengths: Sequence[int], kept: Sequence[int], *, ragged: bool) -> None:
        """One forward: the first ``kept`` of ``lengths`` tokens stay.

        What does not stay is another text's, as a draft that was wrong.
        """
        width = max(lengths)
        columns = tuple(lengths) if ragged else (width,) * len(lengths)
        self.rows = [
            self.store.fit(row, held + taken)
            for row, held, taken in zip(self.rows, self.held, columns, strict=True)
        ]
        queries, keys, values = (
            mx.array(np.concatenate([self._taken(name, r, n, width) for r, n in enumerate(kept)]))
            for name in ("queries", "keys", "values")
        )
        offsets, sizes = (mx.array(list(x), dtype=mx.int32) for x in (self.held, lengths))
        view = self.view_of(self.store, self.rows, Span(offsets, sizes, width, columns))
        view.update_and_fetch(keys, values)
        out = np.array(view.attend(queries, SCALE))
        self.rows = view.commit(mx.array(list(kept), dtype=mx.int32))
        assert out.shape == (len(kept), HEADS, width, DIM)
        for row, count in enumerate(kept):
            at = self.held[row]
            self.out[row][:, at : at + count] = out[row, :, :count]
            self.held[row] += count

    def _taken(self, name: str, row: int, kept: int, width: int) -> np.ndarray:
        whole = getattr(self.texts[row], name)
        at = self.held[row]
        right = whole[:, at : at + kept]
        wrong = np.full((whole.shape[0], width - kept, DIM), 3.25, dtype=np.float32)
        return np.concatenate([right, wrong], axis=1)[None]


@pytest.mark.parametrize("window", [None, WINDOW, 64])
def test_attention_is_dense_attention_for_every_cutting(
    view_of: ViewOf, window: int | None
) -> None:
    """Prompts in chunks wider than the ring's spare, then blocks of which some tokens stay."""
    draws = random.Random(3)
    texts = [Text(seed, 420) for seed in range(3)]
    cut = Cut(view_of, window, texts)
    cut.read([150, 7, 80], [150, 7, 80], ragged=True)
    cut.read([9, 130, 1], [9, 130, 1], ragged=True)
    while min(cut.held) < 330:
        lengths = [draws.randint(1, 16) for _ in texts]
        kept = [draws.randint(1, min(n, 420 - h)) for n, h in zip(lengths, cut.held, strict=True)]
        if max(cut.held) > 400:
            break
        cut.read(lengths, kept, ragged=False)
    for text, out, held in zip(texts, cut.out, cut.held, strict=True):
        assert held > 200
        np.testing.assert_allclose(out[:, :held], text.dense(window)[:, :held], atol=2e-6)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_a_token_has_the_same_bits_however_the_text_is_cut(
    view_of: ViewOf, window: int | None
) -> None:
    """Token by token and alone, against blocks with wrong drafts beside a longer row."""
    text, other = Text(1, 260), Text(2, 300)
    alone = Cut(view_of, window, [text])
    for _ in range(200):
        alone.read([1], [1], ragged=True)
    draws = random.Random(5)
    beside = Cut(view_of, window, [other, text])
    beside.read([90, 3], [90, 3], ragged=True)
    while beside.held[1] < 200:
        room = 200 - beside.held[1]
        beside.read([16, 16], [1, min(room, draws.randint(1, 16))], ragged=False)
    assert np.array_equal(alone.out[0][:, :200], beside.out[1][:, :200])


def test_a_ring_holds_its_window_and_a_spare() -> None:
    ring, full = store(WINDOW), store(None)
    assert [ring.capacity(n) for n in (1, 64, 65, 5000)] == [64, 64, 128, 128]
    assert [full.capacity(n) for n in (1, 64, 65, 5000)] == [64, 64, 128, 5120]
    assert ring.capacity(10**6) == bucket(WINDOW) + SPARE


def test_bytes_are_those_that_are_allocated() -> None:
    for window in (None, WINDOW):
        layer = store(window)
        for tokens in (1, 64, 65, 700):
            assert sum(a.nbytes for a in layer.fit([], tokens)) == layer.nbytes(tokens)


def test_a_row_grows_and_shrinks_around_what_it_holds() -> None:
    layer = store(None)
    row = [mx.random.normal((1, KV, 64, DIM)) for _ in range(2)]
    grown = layer.fit(row, 300)
    assert [array.shape[2] for array in grown] == [320, 320]
    back = layer.fit(grown, 60)
    for old, new in zip(row, back, strict=True):
        assert np.array_equal(old, new)
    assert layer.fit(row, 64) is row


def test_a_forward_writes_in_place(view_of: ViewOf) -> None:
    """What a token costs is its own bytes, not the row's."""
    layer = store(None)
    rows = [layer.fit([], 60_000)]
    mx.eval(rows)
    whole = layer.nbytes(60_000)
    new = mx.ones((1, KV, 1, DIM))
    mx.eval(new)
    for step in range(3):
        offset = mx.array([step], dtype=mx.int32)
        view = view_of(layer, rows, Span(offset, mx.array([1]), 1, (1,)))
        rows = []
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        view.update_and_fetch(new, new)
        rows = [layer.settled(row, offset) for row in view.commit(mx.array([1]))]
        del view
        mx.eval(rows)
        assert mx.get_peak_memory() - before < whole / 100


def drafted(
    view_of: ViewOf, layer: AttentionStore, rows: list[Arrays], offset: mx.array
) -> list[Arrays]:
    """A drafter's layer in a round: its block is attended, and then context takes its place."""
    block, one = mx.ones((1, 1, 4, WIDE)), mx.array([4])
    span = Span(offset, one, 4, (4,))
    view = view_of(layer, rows, span)
    view.update_and_fetch(block, block)
    out = view.attend(mx.ones((1, 1, 4, WIDE)), SCALE, causal=False)
    context = view_of(layer, view.commit(one), span)
    context.update_and_fetch(block + out.sum(), block)
    return context.commit(one)


def branched(
    view_of: ViewOf, layer: AttentionStore, rows: list[Arrays], offset: mx.array
) -> list[Arrays]:
    """A target's layer in a round of trees: one path of the columns is kept, known afterwards."""
    parents = mx.array([[0, 0, 0, 1]], dtype=mx.int32)
    span = Span(offset, mx.array([4]), 4, (4,), tree(parents, 4))
    view = view_of(layer, rows, span)
    keys = mx.ones((1, 1, 4, WIDE))
    view.update_and_fetch(keys, keys)
    out = view.attend(mx.ones((1, 1, 4, WIDE)), SCALE)
    right = (out.sum() > 0).astype(mx.int32)
    return view.commit(mx.array([3]), mx.array([[0, 1, 3]], dtype=mx.int32) * right)


@pytest.mark.parametrize("round_", [drafted, branched])
@pytest.mark.parametrize("window", [None, 50_000])
def test_what_is_known_after_attention_copies_nothing_either(
    view_of: ViewOf, window: int | None, round_: Callable[..., list[Arrays]]
) -> None:
    """Attention's own arrays are a share of the row's; its keys are not there twice."""
    layer = AttentionStore(AttentionSpec(1, WIDE, mx.float32, window))
    rows = [layer.fit([], 60_000)]
    mx.eval(rows)
    whole = layer.nbytes(60_000)
    for step in range(3):
        offset = mx.array([4 * step], dtype=mx.int32)
        mx.eval(offset)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        given, rows = rows, []
        after = round_(view_of, layer, given, offset)
        del given
        mx.eval(after)
        while after:
            positions = offset + mx.arange(after[-1][-1].shape[2], dtype=mx.int32)
            rows.append(layer.settled(after.pop(), positions))
        mx.eval(rows)
        assert mx.get_peak_memory() - before < whole / 4


def test_a_view_of_what_is_held_writes_nothing(view_of: ViewOf) -> None:
    layer = store(None)
    rows = [[mx.random.normal((1, KV, 64, DIM)) for _ in range(2)] for _ in range(2)]
    before = [[np.array(array) for array in row] for row in rows]
    span = Span(mx.array([2, 0]), mx.array([3, 3]), 3, (3, 3))
    view = view_of(layer, rows, span, held=True)
    zeros = mx.zeros((2, KV, 3, DIM))
    view.update_and_fetch(zeros, zeros)
    out = view.attend(mx.ones((2, HEADS, 3, DIM)), SCALE)
    assert np.abs(np.array(out)).min() > 0  # it sees what is held, not the zeros
    after = view.commit(mx.array([3, 3]))
    for old, new in zip(before, after, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))
