"""The change between two drafters, and how sure it is."""

import numpy as np
import pytest

from dflash_serve.measure.figures import RoundCount
from dflash_serve.measure.intervals import Interval
from dflash_serve.training.evaluate.judge import Change, change_of


def counts(means: np.ndarray) -> list[RoundCount]:
    return [RoundCount(round(mean * 1000), 1000) for mean in means]


def named(groups: np.ndarray) -> list[bytes]:
    return [str(group).encode() for group in groups]


def test_the_change_is_that_of_the_means_over_responses() -> None:
    """A long response counts no more than a short one."""
    old = [RoundCount(20, 10), RoundCount(400, 100)]
    new = [RoundCount(40, 10), RoundCount(400, 100)]
    assert change_of(old, new, [b"a", b"b"]).value == pytest.approx(4.0 / 3.0 - 1)


def test_no_change_has_an_interval_of_nothing() -> None:
    same = counts(np.array([2.0, 3.0, 5.0]))
    assert change_of(same, same, [b"a", b"b", b"c"]) == Change(0.0, Interval(0.0, 0.0))


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    """Over 400 conversations of one response the delta method has an answer."""
    rng = np.random.default_rng(1)
    old = rng.uniform(2, 6, 400)
    new = 1.1 * old + rng.normal(0, 0.5, 400)
    found = change_of(counts(old), counts(new), named(np.arange(400)))
    ratio = new.mean() / old.mean()
    error = np.std(new - ratio * old) / old.mean() / np.sqrt(400)
    assert found.value == pytest.approx(ratio - 1, abs=1e-3)
    assert [found.interval.low, found.interval.high] == pytest.approx(
        [ratio - 1 - 1.96 * error, ratio - 1 + 1.96 * error], abs=0.2 * error
    )
    assert change_of(counts(old), counts(new), named(np.arange(400))) == found


def test_turns_of_one_conversation_are_drawn_together() -> None:
    """Nine like turns of each of 30 chats tell no more than one of each does."""
    rng = np.random.default_rng(2)
    old, new = rng.uniform(2, 6, 30), rng.uniform(2, 6, 30)
    one = change_of(counts(old), counts(new), named(np.arange(30)))
    again = np.repeat(np.arange(30), 9)
    found = change_of(counts(old[again]), counts(new[again]), named(again))
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (one.interval.low, one.interval.high)
    )
    apart = change_of(counts(old[again]), counts(new[again]), named(np.arange(270))).interval
    assert apart.high - apart.low < 0.5 * (one.interval.high - one.interval.low)
