"""The graphs of a round: traced once while they are in use, bounded in number."""

import gc
import weakref

import mlx.core as mx

from dflash_serve.bench.simulated import ChainDraft
from dflash_serve.engine.rounds import RoundRows, Rounds, RoundShape

ENOUGH = 3
"""Rounds of one shape by the last of which it is traced."""


class CountingDrafter:
    """Drafts the anchor; counts how often its code runs: each time, but once for all by trace."""

    def __init__(self) -> None:
        self.calls = 0

    def inputs(self, width: int) -> int:
        return width

    def draft(self, anchors: mx.array, width: int, views: list[object]) -> ChainDraft:
        self.calls += 1
        return ChainDraft(mx.broadcast_to(anchors[:, None], (anchors.shape[0], width - 1)))


class NoLayers:
    def views(self, rows: object, span: object) -> list[object]:
        return []


def made() -> tuple[CountingDrafter, Rounds]:
    drafter = CountingDrafter()
    return drafter, Rounds(None, {"drafter": drafter}, {"drafter": NoLayers()})  # type: ignore[arg-type, dict-item]


def calls(drafter: CountingDrafter, rounds: Rounds, capacities: tuple[int, ...]) -> int:
    """How often the drafter's code runs for a proposal of this shape."""
    before = drafter.calls
    numbers = mx.arange(len(capacities), dtype=mx.int32)
    shape = RoundShape(4, capacities, draft=True)
    proposal, _ = rounds.propose(shape, RoundRows(numbers, numbers, numbers), {"drafter": []})
    assert proposal.tokens.tolist() == [[row] * 3 for row in range(len(capacities))]
    return drafter.calls - before


def test_a_shape_is_traced_once_it_has_come_again() -> None:
    drafter, rounds = made()
    for capacities in ((64,), (64, 64), (64, 128)):
        assert [calls(drafter, rounds, capacities) for _ in range(5)] == [1] * ENOUGH + [0, 0]


def test_a_shape_is_never_traced_where_that_is_switched_off() -> None:
    drafter = CountingDrafter()
    stores = {"drafter": NoLayers()}
    rounds = Rounds(None, {"drafter": drafter}, stores, compiled=False)  # type: ignore[arg-type]
    assert [calls(drafter, rounds, (64,)) for _ in range(5)] == [1] * 5


def test_the_graphs_that_were_used_least_recently_are_let_go() -> None:
    drafter, rounds = made()
    for capacity in range(1000):
        for _ in range(ENOUGH):
            calls(drafter, rounds, (capacity,))
            calls(drafter, rounds, (7,))
    assert calls(drafter, rounds, (7,)) == 0
    assert calls(drafter, rounds, (999,)) == 0
    assert calls(drafter, rounds, (8,)) == 1


def test_graphs_end_with_their_rounds_not_with_the_next_garbage_collection() -> None:
    """Freed on another thread, a trace would stay in the table of the one that made it."""
    drafter, rounds = made()
    for _ in range(ENOUGH + 1):
        calls(drafter, rounds, (64,))
    gone = weakref.ref(drafter)
    gc.disable()
    try:
        del drafter, rounds
        assert gone() is None
    finally:
        gc.enable()
