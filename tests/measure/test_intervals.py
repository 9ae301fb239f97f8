"""The interval of tokens per round: what it must be where there is a formula."""

import numpy as np
import pytest

from dflash_serve.measure.figures import RoundCount
from dflash_serve.measure.intervals import conversation_sums, mean_interval, ratio_interval


def counts(means: np.ndarray) -> list[RoundCount]:
    return [RoundCount(mean * 1000, 1000) for mean in means.tolist()]


def test_of_single_responses_it_is_the_normal_approximation() -> None:
    means = np.random.default_rng(1).uniform(2, 6, 400)
    found = mean_interval(counts(means), range(400))
    assert found is not None
    error = means.std() / 20
    assert [found.low, found.high] == pytest.approx(
        [means.mean() - 1.96 * error, means.mean() + 1.96 * error], abs=0.15 * error
    )
    assert (found.level, found.resamples) == (0.95, 2000)
    assert mean_interval(counts(means), range(400)) == found


def test_like_turns_of_a_chat_tell_no_more_than_one_does() -> None:
    means = np.random.default_rng(2).uniform(2, 6, 30)
    again = np.repeat(np.arange(30), 9)
    once, nine = (
        mean_interval(counts(means[rows]), rows.tolist()) for rows in (np.arange(30), again)
    )
    assert once is not None
    assert nine is not None
    assert (nine.low, nine.high) == pytest.approx((once.low, once.high))


def test_responses_count_alike_however_many_a_chat_has() -> None:
    """The mean of all responses lies within, and not that of the chats' means."""
    means = np.array([6.0] * 99 + [2.0] * 40)
    found = mean_interval(counts(means), [0] * 99 + list(range(1, 41)))
    assert found is not None
    assert found.low <= means.mean() <= found.high
    assert found.high > 4.5


def test_one_conversation_has_no_interval() -> None:
    assert mean_interval(counts(np.array([2.0, 3.0])), ["a", "a"]) is None
    # an answer of one token has no rounds
    assert mean_interval([RoundCount(4, 2), RoundCount(0, 0)], ["a", "b"]) is None


def test_sums_of_processes_add_up() -> None:
    made, names = counts(np.array([2.0, 3.0, 4.0, 7.0])), ["a", "b", "a", "c"]
    whole = conversation_sums(made, names)
    parts = [conversation_sums(made[rank::2], names[rank::2], names) for rank in (0, 1)]
    assert (parts[0] + parts[1] == whole).all()
    assert ratio_interval(*whole) == mean_interval(made, names)
