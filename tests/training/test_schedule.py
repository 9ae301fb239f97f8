import math

import pytest

from dflash_serve.training.run.guard import LossGuard
from dflash_serve.training.run.schedule import Horizon, Kind, Schedule, Style


def rates(schedule: Schedule, steps: int = 100) -> list[float]:
    return [schedule.rate(step / steps) for step in range(steps + 1)]


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    course = rates(Schedule(1.0, warmup=0.1))
    assert 0 < course[0] < course[9] < course[10] == 1.0
    assert course[10:] == sorted(course[10:], reverse=True)
    assert course[100] == pytest.approx(0.0)


def test_wsd_holds_the_peak_and_falls_over_the_last_share() -> None:
    course = rates(Schedule(1.0, "wsd", warmup=0.04, decay=0.2, minimum=0.1))
    assert course[4:81] == [1.0] * 77
    assert course[80:] == sorted(course[80:], reverse=True)
    assert course[90] == pytest.approx(0.55)
    assert course[100] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("style", "half"), [("cosine", 0.5), ("linear", 0.5), ("1-sqrt", 1 - math.sqrt(0.5))]
)
def test_wsd_decays_in_the_chosen_form(style: Style, half: float) -> None:
    schedule = Schedule(1.0, "wsd", decay=0.4, style=style)
    assert [schedule.rate(at) for at in (0.6, 0.8, 1.0)] == pytest.approx([1.0, half, 0.0])
    course = rates(schedule)[60:]
    assert course == sorted(course, reverse=True)


def test_a_run_may_grow_while_its_rate_is_held() -> None:
    schedule, hundred = Schedule(1.0, "wsd", warmup=0.1, decay=0.2), Horizon(steps=100)
    assert schedule.may_grow(hundred, Horizon(steps=400), 50, 0.0)
    assert schedule.may_grow(Horizon(minutes=10), Horizon(minutes=20), 9, 300.0)
    for step, steps in ((5, 200), (81, 200), (50, 501), (50, 100), (50, 90)):
        # warming up; falling; would warm up again; not longer; shorter
        assert not schedule.may_grow(hundred, Horizon(steps=steps), step, 0.0), (step, steps)
    assert not schedule.may_grow(hundred, Horizon(minutes=10), 50, 60.0)
    assert not Schedule(1.0, warmup=0.1).may_grow(hundred, Horizon(steps=200), 50, 0.0)


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_without_warm_up_the_peak_comes_first(kind: Kind) -> None:
    assert Schedule(2.0, kind, warmup=0.0).rate(0.0) == 2.0
    assert Schedule(2.0, kind, warmup=0.0, decay=1.0).rate(1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_no_step_lies_beyond_the_end(kind: Kind) -> None:
    schedule, horizon = Schedule(1.0, kind, minimum=0.25), Horizon(steps=7)
    last = schedule.rate(horizon.progress(6, 0.0))
    assert 0.25 < last < 1.0
    assert schedule.rate(horizon.progress(8, 0.0)) == schedule.rate(1.0) == 0.25


def test_a_horizon_is_steps_or_minutes_or_epochs() -> None:
    assert Horizon(steps=200).progress(50, 1e9) == 0.25
    assert Horizon(minutes=2.0).progress(10**9, 30.0) == 0.25
    assert Horizon(epochs=6).in_steps(13) == Horizon(steps=78)
    assert Horizon(epochs=0.01).in_steps(1) == Horizon(steps=1)
    assert Horizon(minutes=2.0).in_steps(13) == Horizon(minutes=2.0)
    for wrong in ({}, {"steps": 1, "minutes": 1.0}, {"steps": 0}, {"epochs": math.inf}):
        with pytest.raises(ValueError, match=r"exactly one|positive"):
            Horizon(**wrong)


def seen(*losses: float) -> LossGuard:
    guard = LossGuard([])
    for loss in losses:
        guard.see(loss)
    return guard


def test_one_odd_batch_is_no_explosion() -> None:
    guard = seen(*[2.0] * 60, 50.0)
    assert not guard.calm
    assert not guard.exploded
    guard.see(2.0)
    assert guard.calm


def test_a_loss_that_stays_high_has_exploded() -> None:
    assert seen(*[2.0] * 60, *[7.0] * 8).exploded
    assert not seen(*[2.0] * 60, *[5.0] * 8).exploded
    assert not seen(*[0.01] * 60, *[0.9] * 8).exploded
    assert not seen(*[2.0] * 10, *[9.0] * 8).exploded


def test_a_guard_goes_on_from_its_losses() -> None:
    whole = seen(*[2.0] * 200, *[9.0] * 7)
    again = LossGuard(whole.losses)
    assert len(again.losses) < 200
    again.see(9.0)
    assert again.exploded
