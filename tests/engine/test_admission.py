"""Who is admitted next: turns, memory, and nobody passed over for ever."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_serve.engine.admission import Admission, check_limit, context_under
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.sequence import Sequence
from dflash_serve.engine.types import EngineRequest

BLOCK = 4


def by_token(bytes_per_token: int = 1) -> Callable[[int], int]:
    return lambda tokens: tokens * bytes_per_token


def config(limit: int = 0, **changes: int) -> EngineConfig:
    defaults = {"max_batch": 16, "max_context": 60, "block_size": BLOCK}
    return EngineConfig(memory_limit=limit, **defaults | changes)


def sequence(name: str, longest: int, group: str = "") -> Sequence:
    """A request that may come to have ``longest`` tokens."""
    return Sequence(EngineRequest(name, (1,), longest - 1, group=group), longest - 1, 0.0)


def taken(made: Admission, running: list[Sequence]) -> list[str]:
    """Names of all that are admitted beside ``running``, to which they are added."""
    names = []
    while (one := made.take(running)) is not None:
        running.append(one)
        names.append(one.request.id)
    return names


def test_requests_are_admitted_while_their_reservations_fit_the_limit() -> None:
    made = Admission(config(100), by_token())
    for name, longest in (("a", 40), ("b", 42), ("c", 8)):
        made.add(sequence(name, longest))
    running: list[Sequence] = []
    assert taken(made, running) == ["a", "b"]
    assert [one.reserved for one in running] == [44, 46], "a block beyond the longest text"
    running.pop(0)
    assert taken(made, running) == ["c"]


def test_without_a_limit_rows_are_all_that_counts() -> None:
    made = Admission(config(max_batch=2), by_token(10**9))
    for name in "abc":
        made.add(sequence(name, 50))
    assert taken(made, []) == ["a", "b"]


def test_small_requests_pass_one_that_does_not_fit_until_it_was_passed_often_enough() -> None:
    """A stream of small requests, each of which leaves: the large one still gets its row."""
    made = Admission(config(100), by_token())
    running = [sequence("first", 50)]
    running[0].reserved = 54
    made.add(sequence("large", 60))
    admitted = []
    for number in range(30):
        made.add(sequence(str(number), 6))
        admitted += taken(made, running)
        if len(running) > 2:  # the small ones leave after a while; the first stays
            running.pop(1)
        if number == 20:
            assert admitted == [str(n) for n in range(8)], "held back: they passed it eight times"
            running.remove(running[0])
    assert admitted[8] == "large"
    assert len(admitted) > 9, "and then the others"


def test_passing_counts_for_whoever_is_passed_and_nobody_else() -> None:
    made = Admission(config(100), by_token())
    running = [sequence("first", 40)]
    running[0].reserved = 44
    large, late = sequence("large", 60), sequence("late", 60)
    for one in (large, sequence("small", 5), late):
        made.add(one)
    assert taken(made, running) == ["small"]
    assert (large.passed, late.passed) == (1, 0)


def test_whoever_was_passed_often_comes_before_the_turns_of_groups() -> None:
    made = Admission(config(100), by_token())
    running = [sequence("g1", 40, "g")]
    running[0].reserved = 44
    large = sequence("g2", 60, "g")
    large.passed = 8
    made.add(large)
    made.add(sequence("other", 5))
    assert taken(made, running) == []
    running.clear()
    assert taken(made, running) == ["g2", "other"]


def test_the_group_with_the_fewest_rows_is_next_then_the_one_whose_turn_is_longest_ago() -> None:
    made = Admission(config(), by_token())
    for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
        made.add(sequence(name, 5, name[0]))
    running = [sequence("b0", 5, "b")]
    assert taken(made, running) == ["a1", "c1", "b1", "a2", "b2", "a3"]


def test_rows_that_run_stay_when_they_cost_more_and_nobody_joins_above_the_limit() -> None:
    made = Admission(config(200), by_token())
    for name in ("a", "b", "c"):
        made.add(sequence(name, 40))
    running: list[Sequence] = []
    running.append(made.take(running) or sequence("none", 1))
    running.append(made.take(running) or sequence("none", 1))
    made.reprice(config(200, block_size=1), by_token(3), running)
    assert [one.reserved for one in running] == [123, 123]
    assert taken(made, running) == []
    running.pop()
    assert taken(made, running) == []
    running.pop()
    assert taken(made, running) == ["c"]


def test_a_price_at_which_the_longest_context_does_not_fit_is_refused_and_changes_nothing() -> None:
    made = Admission(config(100), by_token())
    made.add(sequence("a", 40))
    with pytest.raises(ValueError, match=r"100 bytes.* 60 tokens take 128"):
        made.reprice(config(100), by_token(2), [])
    assert taken(made, running := []) == ["a"]
    assert running[0].reserved == 44


def test_what_others_reserve_under_the_same_limit_counts() -> None:
    elsewhere = [70]
    made = Admission(config(100), by_token(), lambda: elsewhere[0])
    made.add(sequence("a", 40))
    running: list[Sequence] = []
    assert taken(made, running) == []
    elsewhere[0] = 50
    assert taken(made, running) == ["a"]


def test_removing_a_request_ends_its_group_when_it_was_the_last() -> None:
    made = Admission(config(), by_token())
    for name in ("a1", "a2"):
        made.add(sequence(name, 5, "a"))
    first = made.remove("a1")
    assert first is not None
    assert first.request.id == "a1"
    assert made.remove("a1") is None
    assert len(made) == 1
    made.remove("a2")
    assert taken(made, []) == []


def bucketed(step: int, price: int, base: int) -> Callable[[int], int]:
    return lambda tokens: base + price * (-(-tokens // step) * step)


@given(
    st.integers(1, 64), st.integers(1, 9), st.integers(0, 500), st.integers(1, 400),
    st.integers(1, 20), st.integers(1, 5000),
)  # fmt: skip
def test_the_context_is_the_longest_of_which_one_row_fits(
    step: int, price: int, base: int, wanted: int, block: int, limit: int
) -> None:
    row_bytes = bucketed(step, price, base)
    fitting = [n for n in range(1, wanted + 1) if row_bytes(n + block) <= limit]
    if not fitting or fitting[-1] < min(64, wanted):
        with pytest.raises(
            ValueError, match=f"{limit} bytes.*take {row_bytes(min(64, wanted) + block)}$"
        ):
            context_under(limit, row_bytes, wanted, block)
        return
    found = context_under(limit, row_bytes, wanted, block)
    assert found == fitting[-1]
    check_limit(EngineConfig(max_context=found, block_size=block, memory_limit=limit), row_bytes)


def test_no_limit_leaves_the_context_as_wanted() -> None:
    assert context_under(0, by_token(10**12), 100_000, 8) == 100_000
