"""Chains, trees or plain rounds: whichever has committed more tokens per second."""

import pytest

from dflash_serve.engine.block_policy import Choice, RoundOutcome, RowLimit, RowOutcome
from dflash_serve.engine.round_kinds import RoundKinds

KINDS = (0, 8, 16)


def rows(count: int, block: int = 8) -> list[RowLimit]:
    return [RowLimit(row, block) for row in range(count)]


def outcome(choice: Choice, count: int, seconds: float | None, committed: int = 4) -> RoundOutcome:
    ran = tuple(RowOutcome(row, choice.width, committed) for row in range(count))
    return RoundOutcome(choice.width, ran, seconds, choice.nodes)


def run(policy: RoundKinds, rounds: int, rates: dict[int, float], count: int = 1) -> list[int]:
    """What it chooses where a round of each kind commits 4 tokens per row at its rate."""
    chosen = []
    for _ in range(rounds):
        choice = policy.choose(rows(count))
        chosen.append(choice.nodes)
        policy.observe(outcome(choice, count, 4 * count / rates[choice.nodes]))
    return chosen


@pytest.mark.parametrize("best", KINDS)
def test_the_fastest_kind_runs(best: int) -> None:
    policy = RoundKinds(8, KINDS, plain=False)
    rates = dict.fromkeys(KINDS, 100.0) | {best: 120.0}
    chosen = run(policy, 600, rates)
    assert set(chosen[:30]) == set(KINDS)
    assert chosen[30:].count(best) > 0.97 * len(chosen[30:])


def test_a_kind_that_becomes_faster_is_found() -> None:
    policy = RoundKinds(8, KINDS, plain=False)
    run(policy, 100, {0: 100.0, 8: 50.0, 16: 60.0})
    chosen = run(policy, 4000, {0: 100.0, 8: 50.0, 16: 300.0})
    assert chosen[-100:].count(16) > 90


def test_one_slow_round_says_nothing() -> None:
    """As of a trace, or of a busy machine."""
    policy = RoundKinds(8, (0, 8), plain=False)
    rates = {0: 100.0, 8: 110.0}
    run(policy, 20, rates)
    policy.observe(outcome(Choice(8, 8), 1, 30.0, committed=1))
    assert run(policy, 40, rates).count(8) > 35


def test_numbers_of_rows_are_judged_apart() -> None:
    policy = RoundKinds(8, (0, 16), plain=False)
    run(policy, 50, {0: 100.0, 16: 150.0}, count=1)
    run(policy, 50, {0: 100.0, 16: 50.0}, count=4)
    assert set(run(policy, 10, {0: 100.0, 16: 150.0}, count=1)) == {16}
    assert set(run(policy, 10, {0: 100.0, 16: 50.0}, count=4)) == {0}


def test_without_drafts_there_is_no_tree() -> None:
    policy = RoundKinds(8, (16,), plain=False)
    assert policy.choose(rows(2, block=1)) == Choice(1)
    assert policy.choose(rows(2)) == Choice(8, 16)


def test_rows_with_constraints_have_chains() -> None:
    assert RoundKinds(8, (16,), plain=False).choose(rows(2), guided=True) == Choice(8)
    policy = RoundKinds(8, (0, 16), plain=False)
    run(policy, 50, {0: 100.0, 16: 150.0})
    assert policy.choose(rows(1), guided=True) == Choice(8)


def test_plain_rounds_run_where_no_draft_pays() -> None:
    policy = RoundKinds(8, (0, 16), plain=True)
    widths = []
    for _ in range(600):
        choice = policy.choose(rows(1))
        widths.append(choice.width)
        policy.observe(outcome(choice, 1, 1.0 if choice.width == 1 else 3.0, committed=1))
    assert widths[60:].count(1) > 0.97 * len(widths[60:])


def test_rounds_without_a_time_of_their_own_are_not_counted() -> None:
    """As with a prompt beside them."""
    policy = RoundKinds(8, (0, 8), plain=False)
    for _ in range(50):
        policy.observe(outcome(policy.choose(rows(1)), 1, None))
    assert policy.choose(rows(1)) == Choice(8), "nothing is known yet: the first kind is tried"
