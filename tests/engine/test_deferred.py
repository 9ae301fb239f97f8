"""The drafter gets the context of plain rounds late, but whole, in order, of live rows alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AttentionCache, DraftAdapter, TargetAdapter
from dflash_serve.bench.simulated import ChainDraft
from dflash_serve.engine.deferred import DeferredContext
from dflash_serve.engine.plan import ContextRow, DecodeRow, PrefillRow, StepPlan
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import SamplingParams
from tests.tiny import tiny_pair

BLOCK = 4
GREEDY = SamplingParams()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[TargetAdapter, DraftAdapter]:
    directory: Path = tmp_path_factory.mktemp("pair")
    return tiny_pair(directory)


class Watched:
    """A drafter whose logits are kept: they show its context better than its drafts."""

    def __init__(self, drafter: Any) -> None:
        self._drafter = drafter
        self.logits = mx.zeros(())

    def __getattr__(self, name: str) -> object:
        return getattr(self._drafter, name)

    def draft(self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]) -> ChainDraft:
        self.logits = self._drafter.block_logits(anchors, width, caches)
        return ChainDraft(mx.argmax(self.logits, axis=-1).astype(mx.int32))


class Engine:
    """A runner op by op, and what its rows' tokens are."""

    def __init__(self, pair: tuple[TargetAdapter, DraftAdapter]) -> None:
        target, drafter = pair
        self.tokens: dict[int, list[int]] = {}
        self.drafter: Any = Watched(drafter)
        self.runner = DeviceRunner(target, self.drafter, BLOCK, compiled=False)

    def open(self, row: int, tokens: list[int]) -> None:
        """Prefill all but the last token, which is the row's next anchor."""
        self.tokens[row] = tokens
        prefill = PrefillRow(row, 0, tuple(tokens[:-1]), True, GREEDY)
        self.runner.run(StepPlan(prefill=(prefill,)))

    def round(self, *rows: int, block: int = 1, closed: tuple[int, ...] = ()) -> None:
        decode = tuple(
            DecodeRow(row, len(self.tokens[row]) - 1, self.tokens[row][-1], block, GREEDY)
            for row in rows
        )
        result = self.runner.run(StepPlan(closed=closed, decode=decode))
        for row, chosen in zip(rows, result.decode, strict=True):
            self.tokens[row] += chosen.tokens

    def drafted(self, row: int) -> mx.array:
        """The logits that the drafter has for ``row`` now."""
        before = list(self.tokens[row])
        self.round(row, block=BLOCK)
        self.tokens[row] = before
        return self.drafter.logits


def same_as_afresh(pair: tuple[TargetAdapter, DraftAdapter], engine: Engine, row: int) -> bool:
    """Whether it would draft just so if all tokens of ``row`` had been prefilled."""
    other = Engine(pair)
    other.open(row, list(engine.tokens[row]))
    return mx.allclose(engine.drafted(row), other.drafted(row), atol=1e-4).item() is True


@pytest.mark.parametrize("rounds", [1, 31, 32, 33, 70])
def test_a_draft_behind_plain_rounds_sees_all_their_tokens(
    pair: tuple[TargetAdapter, DraftAdapter], rounds: int
) -> None:
    engine = Engine(pair)
    engine.open(0, [1, 2, 3])
    engine.open(1, [4, 5, 6, 7, 8])
    for _ in range(rounds):
        engine.round(0, 1)
    assert all(same_as_afresh(pair, engine, row) for row in (0, 1))


def test_rows_come_and_go_meanwhile(pair: tuple[TargetAdapter, DraftAdapter]) -> None:
    engine = Engine(pair)
    engine.open(0, [1, 2, 3])
    engine.open(1, [4, 5, 6, 7, 8])
    for _ in range(5):
        engine.round(0, 1)
    engine.round(0, closed=(1,))
    engine.open(2, [9, 8, 7])
    engine.round(2, 0)
    engine.round(2)
    assert all(same_as_afresh(pair, engine, row) for row in (0, 2))


def test_a_row_that_drafts_again_goes_on_plainly(pair: tuple[TargetAdapter, DraftAdapter]) -> None:
    engine = Engine(pair)
    engine.open(0, [1, 2, 3])
    for block in (1, 1, BLOCK, 1, BLOCK, BLOCK, 1, 1):
        engine.round(0, block=block)
    assert same_as_afresh(pair, engine, 0)


def test_context_that_is_shown_comes_behind_what_was_deferred(
    pair: tuple[TargetAdapter, DraftAdapter],
) -> None:
    """As for a row whose drafter was swapped: it is shown the text while it decodes plainly."""
    engine = Engine(pair)
    engine.runner.draft_with(None, 1)
    engine.open(0, [1, 2, 3, 4])
    engine.runner.draft_with(engine.drafter, BLOCK)
    for _ in range(3):
        engine.round(0)
    shown = tuple(engine.tokens[0][:-1])
    engine.runner.run(StepPlan(context=(ContextRow(0, 0, shown),)))
    assert same_as_afresh(pair, engine, 0)


def test_no_row_keeps_more_than_its_share() -> None:
    deferred = DeferredContext()
    lengths = 0
    while not deferred.full:
        deferred.add((0, 1), (lengths, 7 + lengths), mx.full((2, 1, 3), lengths))
        lengths += 1
    deferred.forget([1])
    due = deferred.take()
    assert due is not None
    assert (due.rows, due.starts, due.taps.shape) == ((0,), {0: 0}, (1, lengths, 3))
    assert due.taps[0, :, 0].tolist() == list(range(lengths))
    assert deferred.take() is None
    assert not deferred.full
