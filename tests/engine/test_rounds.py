"""The graphs of a round: traced once while they are in use, bounded in number."""

import mlx.core as mx

from dflash_serve.engine.cache_pool import SpanShape
from dflash_serve.engine.rounds import RoundRows, Rounds, RoundShape


class CountingDrafter:
    """Drafts the anchor; counts how often it is traced."""

    def __init__(self) -> None:
        self.traced = 0

    def propose(
        self, anchors: mx.array, blocks: mx.array, width: int, views: list[object]
    ) -> mx.array:
        self.traced += 1
        return mx.broadcast_to(anchors[:, None], (anchors.shape[0], width - 1))


def traces(drafter: CountingDrafter, rounds: Rounds, attended: int, rows: int = 1) -> int:
    """How often the drafter is traced for a proposal of this shape."""
    before = drafter.traced
    numbers = mx.arange(rows, dtype=mx.int32)
    shape = RoundShape(SpanShape(4, attended, 0), draft=True)
    proposal, _ = rounds.propose(shape, RoundRows(numbers, numbers, numbers), [])
    assert proposal.tokens.tolist() == [[row] * 3 for row in range(rows)]
    return drafter.traced - before


def test_a_graph_is_traced_once_for_each_shape_and_number_of_rows() -> None:
    drafter = CountingDrafter()
    rounds = Rounds(None, drafter)  # type: ignore[arg-type]
    assert [traces(drafter, rounds, 8, rows) for rows in (1, 2, 1, 2)] == [1, 1, 0, 0]


def test_the_graphs_that_were_used_least_recently_are_let_go() -> None:
    drafter = CountingDrafter()
    rounds = Rounds(None, drafter)  # type: ignore[arg-type]
    for attended in range(1000):
        traces(drafter, rounds, attended)
        traces(drafter, rounds, 7)
    assert traces(drafter, rounds, 7) == 0
    assert traces(drafter, rounds, 999) == 0
    assert traces(drafter, rounds, 8) == 1
