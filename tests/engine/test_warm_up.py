"""The first steps of a runner: what they cover and cost, and that no request's row is in them."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint
from dflash_serve.engine.plan import Chosen, StepPlan, StepResult
from dflash_serve.engine.warm_up import WarmUp
from tests.engine.runners import CountingRunner

ADAPTIVE = EngineConfig(max_batch=4, max_context=200, block_size=8, adaptive=True)


def token_bytes(tokens: int) -> int:
    return 10 * tokens


def steps(warm_up: WarmUp, seconds: float = 0.01, cold: int = 0) -> Iterator[StepPlan]:
    """All of them; rounds take ``seconds`` per row, the first ``cold`` of each shape longer."""
    runner = CountingRunner()
    ran: dict[tuple[int, int], int] = {}
    while (plan := warm_up.next()) is not None:
        result = runner.run(plan)
        shape = len(plan.decode), max((row.block for row in plan.decode), default=0)
        ran[shape] = ran.get(shape, 0) + 1
        late = ran[shape] <= cold
        warm_up.ran(
            replace(result, cold=late), (9.0 if late else seconds) * max(1, len(plan.decode))
        )
        yield plan


@pytest.mark.parametrize(
    ("batch", "limit", "counts"),
    [
        (1, 0, [1, 1]),
        (2, 0, [1, 1, 2, 2]),
        (8, 0, [1, 1, 2, 2]),
        (8, 180, [1, 1, 2, 2]),
        (8, 179, [1, 1]),
    ],
)
def test_one_row_and_two_are_prefilled_and_decoded(
    batch: int, limit: int, counts: list[int]
) -> None:
    config = EngineConfig(max_batch=batch, max_context=9, block_size=8, memory_limit=limit)
    warm_up = WarmUp(config, token_bytes)
    plans = list(steps(warm_up))
    assert [len(plan.prefill) + len(plan.decode) for plan in plans] == counts
    assert [bool(plan.decode) for plan in plans] == [False, True] * (len(counts) // 2)
    assert {row.block for plan in plans for row in plan.decode} == {8}
    assert all(row.row < 0 for plan in plans for row in (*plan.prefill, *plan.decode))
    assert (warm_up.rows, warm_up.bytes) == (counts[-1], counts[-1] * 90)
    assert warm_up.costs == ()


def test_a_context_without_room_for_a_block_is_left_alone() -> None:
    config = EngineConfig(max_context=8, block_size=8, adaptive=True)
    assert list(steps(WarmUp(config, token_bytes))) == []


def test_rounds_of_all_widths_are_measured_for_one_row_and_for_all() -> None:
    warm_up = WarmUp(ADAPTIVE, token_bytes)
    plans = list(steps(warm_up, seconds=0.001))
    assert set(warm_up.costs) == {
        CostPoint(rows, width, 0.001 * rows) for rows in (1, 2, 4) for width in (1, 2, 4, 8)
    }
    assert all(row.row < 0 for plan in plans for row in (*plan.prefill, *plan.decode))
    held = {row.row for plan in plans for row in plan.prefill}
    assert held == {row for plan in plans for row in plan.closed}, "rows are left behind"
    longest = max(row.length + row.block for plan in plans for row in plan.decode)
    assert longest <= ADAPTIVE.max_context
    assert warm_up.bytes == 4 * token_bytes(200)


def test_rounds_that_are_traced_are_not_counted() -> None:
    warm_up = WarmUp(ADAPTIVE, token_bytes)
    list(steps(warm_up, seconds=0.001, cold=3))
    assert warm_up.costs
    assert {point.seconds / point.rows for point in warm_up.costs} == {0.001}


def test_a_slow_model_is_measured_at_two_points_and_once_each() -> None:
    warm_up = WarmUp(ADAPTIVE, token_bytes)
    plans = list(steps(warm_up, seconds=3.0))
    assert [(point.rows, point.width) for point in warm_up.costs] == [(1, 1), (1, 8)]
    assert sum(bool(plan.decode) for plan in plans) <= 6


def test_what_is_known_is_not_measured_again() -> None:
    known = (CostPoint(1, 1, 1.0), CostPoint(1, 8, 2.0))
    warm_up = WarmUp(ADAPTIVE, token_bytes, known)
    assert sum(bool(plan.decode) for plan in steps(warm_up)) == 2
    assert warm_up.costs == known
    assert not warm_up.measures


@pytest.mark.parametrize(
    "changed", [{"adaptive": False}, {"block_size": 1}, {"tree_nodes": (0, 16)}]
)
def test_costs_that_nobody_asks_for_are_not_measured(changed: dict[str, object]) -> None:
    config = replace(ADAPTIVE, **changed)  # type: ignore[arg-type]
    warm_up = WarmUp(config, token_bytes)
    plans = list(steps(warm_up))
    assert {row.block for plan in plans for row in plan.decode} == {config.block_size}
    assert warm_up.costs == ()


def test_memory_bounds_the_rows_that_are_measured() -> None:
    warm_up = WarmUp(replace(ADAPTIVE, memory_limit=5000), token_bytes)
    assert {len(plan.decode) for plan in steps(warm_up) if plan.decode} == {1, 2}
    assert warm_up.bytes <= 5000


def test_a_round_that_fails_is_not_swallowed() -> None:
    warm_up = WarmUp(ADAPTIVE, token_bytes)
    assert warm_up.next() is not None
    warm_up.ran(StepResult((Chosen((), failure="no"),)), 0.1)
    with pytest.raises(IndexError):
        warm_up.next()
