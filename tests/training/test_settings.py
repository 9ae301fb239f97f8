"""The settings of a run: defaults that follow each other, and what is refused, by name."""

import inspect
from typing import Any

import pytest
from pydantic import ValidationError

from dflash_serve.measure.errors import DataError
from dflash_serve.training.commands.run import run
from dflash_serve.training.run.schedule import Horizon, Schedule
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.settings import fault
from dflash_serve.training.step.batches import steps_per_epoch
from dflash_serve.training.step.blocks import default_gamma
from dflash_serve.training.step.objective import Objective

REQUIRED = {"target": "t", "data": "d", "out": "o"}


def settings(**given: Any) -> RunSettings:
    return RunSettings(**REQUIRED | given)


def test_the_command_has_an_option_for_every_setting() -> None:
    assert list(inspect.signature(run).parameters) == list(RunSettings.model_fields)


def test_without_more_a_run_is_the_published_recipe() -> None:
    made = settings()
    assert made.horizon(per_epoch=100_000) == Horizon(epochs=6)
    assert made.course == Schedule(6e-4, "cosine", 0.04, minimum=0.0)
    assert (made.objective, made.weight_decay, made.clip) == (Objective(), 0.0, 1.0)
    assert settings(muon=True).course.peak == 0.01
    assert settings(muon=True, lr=1e-3).course.peak == 1e-3


@pytest.mark.parametrize(
    ("answers", "epochs", "steps"),
    [(20, 60, 180), (300, 53, 2014), (2_600, 7, 2275), (5_000, 6, 3750), (800_000, 6, 600_000)],
)
def test_the_length_follows_the_number_of_answers(answers: int, epochs: int, steps: int) -> None:
    per_epoch = steps_per_epoch(answers, settings().batch)
    assert settings().horizon(per_epoch) == Horizon(epochs=epochs)
    told = settings().describe_length(per_epoch)
    assert told.startswith(f"{steps:,} steps, {epochs} epochs of {per_epoch:,} (no length is given")
    assert "at most 60" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"epochs": 1.5}, "15 steps, 1.5 epochs of 10"),
        ({"steps": 5}, "5 steps, 0.5 epochs of 10"),
        ({"minutes": 30}, "30 minutes, epochs of 10 steps"),
    ],
)
def test_a_given_length_is_that_of_the_run(given: dict[str, Any], told: str) -> None:
    assert settings(**given).horizon(10) == Horizon(**given)
    assert settings(**given).describe_length(10) == told


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells expand `--out ~/x`, and not `--out=~/x`: that made a folder called ~."""
    monkeypatch.setenv("HOME", "/home/me")
    made = settings(data="~/a.jsonl", out="~/x", feature_dir="y", features="disk")
    paths = [made.data, made.out, made.feature_dir]
    assert [str(path) for path in paths] == ["/home/me/a.jsonl", "/home/me/x", "y"]


def test_gamma_follows_the_block() -> None:
    assert [default_gamma(block) for block in (8, 10, 16)] == [4, 5, 7]
    assert 5 < default_gamma(12) < 7
    with pytest.raises(DataError, match=r"above 16, and this one is 32: choose one with --gamma"):
        default_gamma(32)


@pytest.mark.parametrize(
    ("given", "objective"),
    [
        ({"d_pace": 0.2}, Objective(0.0, "dpace", 0.2)),
        ({"loss_type": "dpace"}, Objective(0.0, "dpace", 0.5)),
        (
            {"loss_type": "dpace-continuation-value-only", "d_pace": 0.0, "soft_label": 0.3},
            Objective(0.3, "dpace-continuation-value-only", 0.0),
        ),
    ],
)
def test_d_pace_is_asked_for_by_its_alpha_or_its_form(
    given: dict[str, Any], objective: Objective
) -> None:
    assert settings(**given).objective == objective


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": 0}, "--layers is 0, but should be greater than or equal to 1"),
        ({"layers": 10**9}, "--layers is 1000000000, but should be less than or equal to 256"),
        ({"anchors": 10**12}, "--anchors is 1000000000000, but should be less than or equal to 65"),
        ({"steps": 10**20}, f"--steps is {10**20}, but should be below 2**63"),
        ({"feature_gb": 1e300}, "--feature-gb is 1e+300, but should be less than or equal to"),
        ({"schedule": "wsd", "decay": 1e-320}, "but should be greater than or equal to 0.001"),
        ({"lr": "fast"}, "--lr is fast, but should be a valid number"),
        ({"lr": float("nan")}, "--lr is nan, but should be a finite number"),
        ({"feature_gb": "inf"}, "--feature-gb is inf, but should be a finite number"),
        ({"minutes": 0}, "--minutes is 0, but should be greater than 0"),
        ({"seed": -1}, "--seed is -1, but should be greater than or equal to 0"),
        ({"architecture": "v3"}, "--architecture is v3, but should be 'v1' or 'dflash2'"),
        ({"decay_style": "exp"}, "--decay-style is exp, but should be 'cosine', 'linear' or"),
        ({"loss_type": "ce"}, "--loss-type is ce, but should be 'dflash', 'dpace'"),
        ({"target_layers": "1,x"}, "--target-layers is x, but should be a valid integer"),
        ({"target_layers": "0,2,0"}, "--target-layers is 0,2,0, but should name layer 0 once"),
        ({"gamma": 1e-300}, "--gamma is 1e-300, but should be greater than or equal to 0.01"),
        ({"features": "online", "feature_gb": 1}, "--feature-gb 1.0 has no effect with --features"),
        ({"rate": 1}, "--rate is no option"),
        ({"steps": 1, "minutes": 1}, "give only one of --steps, --epochs and --minutes"),
        ({"min_lr": 1.0}, "a rate of 0.0006 cannot fall to 1.0"),
        ({"schedule": "wsd", "decay": 0.99}, "warm-up 0.04 and decay 0.99 exceed the run"),
        ({"batch": 4, "accumulate": 3}, "--batch 4 cannot be computed in --accumulate 3 parts"),
        ({"decay_style": "linear"}, "--decay-style linear has no effect without --schedule wsd"),
        ({"conv_group": 4}, "--conv-group 4 has no effect without --architecture dflash2"),
        (
            {"prefix_weight_base": 0.5},
            "--prefix-weight-base 0.5 has no effect without --training-mode vp_drafter",
        ),
        ({"feature_dir": "x"}, "--feature-dir x has no effect without --features disk"),
        ({"d_pace": 0.5, "gamma": 4}, "--gamma 4.0 has no effect: D-PACE's weights replace it"),
        ({"d_pace": 0.5, "loss_type": "dflash"}, "--d-pace 0.5 has no effect with --loss-type"),
        ({"training_mode": "vp_drafter", "measure_block": 4}, "--measure-block 4 has no effect"),
        ({"training_mode": "vp_drafter", "block_size": 2}, "--block-size 3 or more, not 2"),
    ],
)
def test_a_mistake_names_the_option_its_value_and_what_is_allowed(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**given)
    assert message in fault(caught.value)
    assert "\n" not in fault(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"layers": 5}, {"block_size": 16}, {"target_layers": "0,2"}, {"intermediate": 8},
        {"window": 8}, {"causal": False}, {"mask_token": 9}, {"architecture": "v1"},
        {"copy_target": True}, {"selector_rank": 4},
    ],
)  # fmt: skip
def test_options_of_a_new_drafter_cannot_go_with_another_to_start_from(
    given: dict[str, Any],
) -> None:
    """Also where the value is the default: the user believes that it counts."""
    (name,) = given
    with pytest.raises(ValidationError) as caught:
        settings(start="drafter", **given)
    assert fault(caught.value).startswith(f"--{name.replace('_', '-')} ")
    assert "cannot go with --start drafter" in fault(caught.value)
