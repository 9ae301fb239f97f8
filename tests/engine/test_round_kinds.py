"""Chains or trees: whichever has committed more tokens per second."""

import pytest

from dflash_serve.engine.block_policy import RoundKinds
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import Chosen, DecodeRow, PrefillRow, StepPlan, StepResult
from dflash_serve.engine.types import SamplingParams

GREEDY = SamplingParams()
KINDS = (0, 8, 16)


def rows(count: int, block: int = 8) -> tuple[DecodeRow, ...]:
    return tuple(DecodeRow(row, 10, 0, block, GREEDY) for row in range(count))


def run(policy: RoundKinds, rounds: int, rates: dict[int, float], count: int = 1) -> list[int]:
    """What it chooses where a round of each kind commits 4 tokens per row at its rate."""
    chosen = []
    for _ in range(rounds):
        kind = policy.choose(rows(count))
        chosen.append(kind)
        result = StepResult(decode=(Chosen((1, 2, 3, 4)),) * count, nodes=kind)
        policy.observe(StepPlan(decode=rows(count), nodes=kind), result, 4 * count / rates[kind])
    return chosen


@pytest.mark.parametrize("best", KINDS)
def test_the_fastest_kind_runs(best: int) -> None:
    policy = RoundKinds(EngineConfig(block_size=8, tree_nodes=KINDS))
    rates = dict.fromkeys(KINDS, 100.0) | {best: 120.0}
    chosen = run(policy, 600, rates)
    assert set(chosen[:30]) == set(KINDS)
    assert chosen[30:].count(best) > 0.97 * len(chosen[30:])


def test_a_kind_that_becomes_faster_is_found() -> None:
    policy = RoundKinds(EngineConfig(block_size=8, tree_nodes=KINDS))
    run(policy, 100, {0: 100.0, 8: 50.0, 16: 60.0})
    chosen = run(policy, 4000, {0: 100.0, 8: 50.0, 16: 300.0})
    assert chosen[-100:].count(16) > 90


def test_one_slow_round_says_nothing() -> None:
    """As of a trace, or of a busy machine."""
    policy = RoundKinds(EngineConfig(block_size=8, tree_nodes=(0, 8)))
    rates = {0: 100.0, 8: 110.0}
    run(policy, 20, rates)
    slow = StepPlan(decode=rows(1), nodes=8)
    policy.observe(slow, StepResult(decode=(Chosen((1,)),), nodes=8), 30.0)
    assert run(policy, 40, rates).count(8) > 35


def test_numbers_of_rows_are_judged_apart() -> None:
    policy = RoundKinds(EngineConfig(block_size=8, tree_nodes=(0, 16)))
    run(policy, 50, {0: 100.0, 16: 150.0}, count=1)
    run(policy, 50, {0: 100.0, 16: 50.0}, count=4)
    assert set(run(policy, 10, {0: 100.0, 16: 150.0}, count=1)) == {16}
    assert set(run(policy, 10, {0: 100.0, 16: 50.0}, count=4)) == {0}


def test_trees_keep_to_the_tokens_that_a_round_may_verify() -> None:
    config = EngineConfig(block_size=8, tree_nodes=(0, 16), verify_tokens=64)
    assert set(run(RoundKinds(config), 20, {0: 1.0, 16: 100.0}, count=8)) == {0}


def test_without_drafts_there_is_no_tree() -> None:
    policy = RoundKinds(EngineConfig(block_size=8, tree_nodes=(16,)))
    assert policy.choose(rows(2, block=1)) == 0
    assert policy.choose(()) == 0
    assert policy.choose(rows(2)) == 16


def test_steps_with_a_prompt_are_not_counted() -> None:
    policy = RoundKinds(EngineConfig(block_size=8, tree_nodes=(0, 8)))
    prompt = (PrefillRow(9, 0, (1,), True, GREEDY),)
    for _ in range(50):
        plan = StepPlan(prefill=prompt, decode=rows(1), nodes=policy.choose(rows(1)))
        policy.observe(plan, StepResult(decode=(Chosen((1,)),)), 1.0)
    assert policy.choose(rows(1)) == 0, "nothing is known yet: the first kind is tried"
