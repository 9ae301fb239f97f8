"""Which width the next round has, with tables made by hand: no clock, no device."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from dflash_serve.engine.block_policy import (
    BlockPolicy,
    RoundOutcome,
    RowLimit,
    RowOutcome,
    widths_to,
)
from dflash_serve.engine.cost_table import CostPoint, CostTable

BLOCK = 8
ONE, FOUR = (0,), (0, 1, 2, 3)
STEEP = (CostPoint(1, 1, 10.0), CostPoint(1, 8, 80.0))
"""Every verified token costs a step: drafts never pay."""
FLAT = (CostPoint(1, 1, 10.0), CostPoint(1, 8, 12.0))
SLOPE = (
    CostPoint(1, 1, 10.0),
    CostPoint(1, 8, 24.0),
    CostPoint(4, 1, 20.0),
    CostPoint(4, 8, 76.0),
)
Chance = Callable[[int, int], float]
"""(row, round) -> how likely each of its drafts is accepted."""


class World:
    """Rounds that cost what ``true`` says, whatever the policy was told."""

    def __init__(
        self,
        policy: BlockPolicy,
        chance: Chance,
        true: Sequence[CostPoint],
        *,
        noise: float = 0.0,
    ) -> None:
        self._policy = policy
        self._chance = chance
        self._true = CostTable(true)
        self._noise = noise
        self._random = random.Random(1)
        self._rounds = 0
        self.seconds = 0.0

    def run(self, rounds: int, rows: Sequence[int] = (0,)) -> list[int]:
        """The widths that were chosen for rounds of ``rows``."""
        chosen = []
        for _ in range(rounds):
            choice = self._policy.choose([RowLimit(row, 100) for row in rows])
            width = choice.width
            taken = self._true.seconds(len(rows), width)
            taken *= 1 + self._noise * self._random.random()
            outcomes = tuple(RowOutcome(row, width, self._commit(row, width)) for row in rows)
            self._policy.observe(RoundOutcome(width, outcomes, taken))
            self._rounds += 1
            self.seconds += taken
            chosen.append(width)
        return chosen

    def _commit(self, row: int, width: int) -> int:
        committed = 1
        while committed < width and self._random.random() < self._chance(row, self._rounds):
            committed += 1
        return committed


def world(
    told: Sequence[CostPoint],
    chance: float | Chance,
    true: Sequence[CostPoint] = (),
    **options: Any,
) -> World:
    always = chance if callable(chance) else lambda row, number: chance
    return World(BlockPolicy(BLOCK, CostTable(told)), always, true or told, **options)


@pytest.mark.parametrize(
    ("block", "widths"), [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (11, (1, 2, 4, 8, 11))]
)
def test_widths_are_what_a_runner_pads_to(block: int, widths: tuple[int, ...]) -> None:
    assert widths_to(block) == widths


@pytest.mark.parametrize("rows", [ONE, FOUR])
@pytest.mark.parametrize("chance", [0.98, 0.9, 0.75, 0.5, 0.25, 0.0])
@pytest.mark.parametrize("table", [STEEP, FLAT, SLOPE])
def test_it_is_about_as_fast_as_the_best_fixed_width(
    table: Sequence[CostPoint], chance: float, rows: Sequence[int]
) -> None:
    costs = CostTable(table)
    seconds = {width: costs.seconds(len(rows), width) for width in widths_to(BLOCK)}
    tokens = {w: len(rows) * sum(chance**depth for depth in range(w)) for w in seconds}
    chosen = world(table, chance).run(1500, rows)
    rate = sum(tokens[width] for width in chosen) / sum(seconds[width] for width in chosen)
    assert rate > 0.94 * max(tokens[width] / seconds[width] for width in seconds)


def test_more_rows_leave_less_room_to_draft() -> None:
    few, many = world(SLOPE, 0.75), world(SLOPE, 0.75)
    assert Counter(few.run(500, ONE)[100:]).most_common(1)[0][0] >= 4
    assert Counter(many.run(500, FOUR)[100:]).most_common(1)[0][0] <= 2


def test_a_row_whose_drafts_are_wrong_does_not_spoil_a_batch_of_others() -> None:
    """What counts is the whole batch: one row without drafts, seven with."""
    table = [
        CostPoint(1, 1, 10.0),
        CostPoint(1, 8, 12.0),
        CostPoint(8, 1, 12.0),
        CostPoint(8, 8, 30.0),
    ]
    made = world(table, lambda row, _: 0.0 if row == 0 else 0.95)
    assert Counter(made.run(300, tuple(range(8)))[50:]).most_common(1)[0][0] == 8


@pytest.mark.parametrize("table", [SLOPE, STEEP])
@pytest.mark.parametrize("rows", [ONE, FOUR])
def test_a_useless_drafter_costs_a_hundredth(
    table: Sequence[CostPoint], rows: Sequence[int]
) -> None:
    made = world(table, 0.0)
    made.run(100, rows)
    before = made.seconds
    chosen = made.run(5000, rows)
    plain = CostTable(table).seconds(len(rows), 1) * len(chosen)
    assert set(chosen) > {1}, "a probe now and then"
    assert made.seconds - before < 1.012 * plain


def test_drafting_comes_back_when_drafts_are_right_again() -> None:
    made = world(SLOPE, lambda _, number: 0.0 if number < 3000 else 0.95)
    assert made.run(3000)[-100:].count(1) > 95
    assert Counter(made.run(1500)[1000:]).most_common(1)[0][0] == 8


def test_a_new_text_is_probed_soon() -> None:
    made = world(SLOPE, lambda row, _: 0.95 if row else 0.0)
    assert made.run(3000)[-100:].count(1) > 95
    assert Counter(made.run(200, rows=(1,))[60:]).most_common(1)[0][0] == 8


def test_what_rounds_take_now_counts_and_not_what_was_measured_once() -> None:
    """The table knows nothing of long contexts, for which verifying became dear."""
    made = world(FLAT, 0.6, true=STEEP)
    assert Counter(made.run(3000)[-1000:]).most_common(1)[0][0] == 1


def test_a_slower_machine_changes_nothing() -> None:
    slow = [CostPoint(point.rows, point.width, 7 * point.seconds) for point in SLOPE]
    chosen = world(SLOPE, 0.95, true=slow).run(1000)
    assert Counter(chosen).most_common(1)[0] == (8, pytest.approx(1000, abs=60))


def test_no_block_is_wider_than_what_rows_can_use() -> None:
    policy = BlockPolicy(BLOCK, CostTable(FLAT))
    for longest, width in ((1, 1), (2, 2), (3, 4), (100, 8)):
        assert policy.choose([RowLimit(0, longest), RowLimit(1, 1)]).width == width


def test_near_a_tie_it_does_not_go_to_and_fro() -> None:
    """Widths 1 and 2 are as fast as each other here, and every time is off by up to a tenth."""
    table = [
        CostPoint(1, 1, 10.0),
        CostPoint(1, 2, 15.0),
        CostPoint(1, 4, 40.0),
        CostPoint(1, 8, 90.0),
    ]
    chosen = world(table, 0.5, noise=0.1).run(4000)
    changes = sum(a != b for a, b in pairwise(chosen))
    assert changes < 0.1 * len(chosen)
