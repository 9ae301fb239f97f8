"""What is known of a request, what its caches hold, and what is to be done about the difference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_serve.engine.sequence import Sequence
from dflash_serve.engine.types import EngineRequest, FinishReason, LogitRules

STOP = 99


def sequence(prompt: int = 5, limit: int = 10, **fields: object) -> Sequence:
    request = EngineRequest(
        "a", tuple(range(prompt)), limit, stop_tokens=frozenset({STOP}), **fields
    )
    return Sequence(request, limit, 1.0)


def test_a_prompt_is_due_until_its_first_token_was_generated() -> None:
    made = sequence(prompt=5)
    assert (made.due, made.decoding) == (range(5), False)
    made.held = 4
    assert (made.due, made.decoding) == (range(4, 5), False)
    made.held = 5
    made.commit((7,), 2.0)
    assert (made.due, made.decoding) == (range(0), True)


def test_a_row_that_begins_again_has_all_due_that_is_known() -> None:
    made = sequence(prompt=5)
    made.held = 5
    made.commit((7,), 2.0)
    made.held += 2
    made.commit((8, 6), 3.0)
    made.missed_to = 3
    made.drafts = False
    made.restart(12)
    assert (made.row, made.held, made.missed, made.drafts) == (12, 0, 0, True)
    assert (made.due, made.decoding) == (range(8), False)
    made.held = 7  # all but the last generated token, which is an anchor again
    assert (made.due, made.decoding) == (range(0), True)


def test_what_a_drafter_has_missed_comes_before_what_nobody_has_read() -> None:
    made = sequence(prompt=9)
    made.held, made.missed_from, made.missed_to = 6, 2, 6
    assert made.due == range(2, 6)
    made.missed_from = 6
    assert made.due == range(6, 9)


def test_tokens_held_while_older_ones_are_missed_are_missed_too() -> None:
    made = sequence(prompt=9)
    made.hold(9)
    assert made.missed == 0
    made.missed_to = 9
    made.hold(2)
    assert (made.held, made.due) == (11, range(11))
    made.missed_from = 11
    made.hold(1)
    assert made.missed == 0


@given(
    st.integers(1, 6),
    st.lists(st.integers(10, 20), max_size=6),
    st.integers(0, 14),
    st.integers(0, 14),
)
def test_tokens_are_those_of_prompt_and_completion(
    prompt: int, generated: list[int], start: int, end: int
) -> None:
    made = sequence(prompt)
    made.generated = generated
    assert made.tokens(start, end) == (*range(prompt), *generated)[start:end]
    assert made.known == prompt + len(generated)


@pytest.mark.parametrize(
    ("tokens", "kept", "finish"),
    [
        ((7, 8), (7, 8), None),
        ((7, STOP, 8), (7,), FinishReason.STOP),
        ((1, 2, 3), (1, 2, 3), FinishReason.LENGTH),
        ((1, 2, 3, 4), (1, 2, 3), FinishReason.LENGTH),
        ((1, 2, STOP), (1, 2), FinishReason.STOP),
    ],
)
def test_tokens_are_taken_up_to_a_stop_token_or_the_limit(
    tokens: tuple[int, ...], kept: tuple[int, ...], finish: FinishReason | None
) -> None:
    made = sequence(limit=3)
    assert made.commit(tokens, 2.0) == kept
    assert made.finish is finish
    assert made.usage().completion_tokens == len(kept) + (finish is FinishReason.STOP)


def test_times_count_from_submission_and_from_the_first_token() -> None:
    made = sequence()
    assert made.usage().time_to_first_token == 0.0
    made.admitted_at = 1.5
    made.commit((7,), 3.0)
    made.commit((7,), 7.0)
    usage = made.usage()
    assert (usage.queue_time, usage.time_to_first_token, usage.decode_time) == (0.5, 2.0, 4.0)


@pytest.mark.parametrize(
    ("asked", "has_spec"),
    [
        ({}, False),
        ({"logprobs": 0}, True),
        ({"prompt_logprobs": 0}, True),
        ({"rules": LogitRules(presence=1.0)}, True),
    ],
)
def test_a_row_has_a_spec_if_it_asks_for_more_than_sampling(
    asked: dict[str, object], has_spec: bool
) -> None:
    assert (sequence(**asked).spec is not None) == has_spec
