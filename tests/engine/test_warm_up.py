"""The first steps of a runner: what they cover and cost, and that no request's row is in them."""

import pytest

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.warm_up import first_steps, scratch_rows
from tests.engine.runners import CountingRunner


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
    runner = CountingRunner(token_bytes=10)
    config = EngineConfig(max_batch=batch, max_context=9, block_size=8, memory_limit=limit)
    rows, needed = scratch_rows(config, runner.bytes_for)
    for plan in first_steps(config, rows):
        runner.run(plan)
    plans = runner.scratch_plans
    assert [len(plan.prefill) + len(plan.decode) for plan in plans] == counts
    assert [bool(plan.decode) for plan in plans] == [False, True] * (len(counts) // 2)
    assert {row.block for plan in plans for row in plan.decode} == {8}
    assert runner.steps == 0, "rows of requests were used"
    assert len(runner.rows) == counts[-1], "what was done with is not let go"
    assert (rows, needed) == (counts[-1], counts[-1] * 90)


def test_a_context_without_room_for_a_block_is_left_alone() -> None:
    assert list(first_steps(EngineConfig(max_context=8, block_size=8))) == []
