"""`dflash-bench caches` on tiny targets: every figure is measured, and what is missed is seen."""

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import pytest
from pydantic import ValidationError

from dflash_serve.adapters.cache_spec import AttentionSpec, StateArray, StateSpec
from dflash_serve.bench import caches
from dflash_serve.bench.options import CachesOptions
from dflash_serve.bench.schedules import Watched, World, load_world, row_needs, run_schedules
from dflash_serve.engine.plan import StepPlan, StepResult, nothing
from dflash_serve.engine.runner import DeviceRunner

WORLDS = ("qwen3-wide", "mistral-wide", "qwen3_5-wide")


def test_every_figure_is_measured() -> None:
    options = CachesOptions(
        random_target="qwen3-tiny",
        long=300,
        short=20,
        rows=3,
        leave=100,
        blocks=(1, 4),
        repeats=1,
        schedules=1,
        worlds=("qwen3-wide",),
    )
    result = caches.run(options)
    assert [one["block"] for one in result.measured["ragged"]] == [1, 4]
    assert all(one["ratio"] > 0 for one in result.measured["ragged"])
    token = 4 * 2 * 2 * 16 * 4  # of four layers, and one more of a drafter
    leaves = result.measured["leave"]
    assert [one["row_bytes"] for one in leaves] == [128 * token, 128 * (token + token // 4)]
    for one in leaves:
        assert one["bytes"]["with"] <= one["bytes"]["without"] + one["row_bytes"]
    assert [one["target"] for one in result.measured["schedules"]] == ["qwen3-wide"]
    assert len(caches.tables(result)) == 3
    assert caches.plot(result).axes


@pytest.mark.parametrize("name", WORLDS)
def test_random_schedules_take_what_their_rows_need(name: str) -> None:
    found = run_schedules(load_world(name, 0), 5, 3)
    assert found["failures"] == []
    assert 0.5 < found["worst_ratio_beyond_slack"] <= 1.35
    assert 0 < found["worst_of_limit"] <= 1
    assert found["swaps"]
    assert found["steps"] > found["requests"] > 2


class Hoarding(DeviceRunner):
    """Frees no row before the last one."""

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        if plan.closed and (plan.prefill or plan.decode):
            plan = replace(plan, closed=())
        return super().run(plan, meanwhile)


class Generous(DeviceRunner):
    """Says that a row takes a tenth of what it takes."""

    def bytes_for(self, tokens: int) -> int:
        return super().bytes_for(tokens) // 10


def with_runner(kind: type[DeviceRunner]) -> World:
    watched = type("Watching", (Watched, kind), {})
    return replace(load_world("qwen3-wide", 0), runner=watched)


def test_rows_that_are_not_freed_are_seen() -> None:
    found = run_schedules(with_runner(Hoarding), 5, 3)
    assert found["wrong"] >= 2
    assert found["worst_ratio_beyond_slack"] > 1.35


def test_a_limit_that_does_not_hold_is_seen() -> None:
    found = run_schedules(with_runner(Generous), 4, 3)
    assert found["worst_of_limit"] > 1
    assert any("under a limit of" in text for text in found["failures"])


def test_a_row_needs_its_tokens_and_a_block_and_each_state_once() -> None:
    full = AttentionSpec(2, 16, mx.float16)
    sliding = AttentionSpec(2, 16, mx.float16, window=100)
    state = StateSpec((StateArray((4, 8), mx.float32), StateArray((3,), mx.float16)))
    token = 2 * 2 * 16 * 2
    assert row_needs([full], 1000, 8) == 1008 * token
    assert row_needs([sliding], 1000, 8) == 108 * token
    assert row_needs([sliding], 50, 8) == 58 * token
    assert row_needs([full, state, state], 10, 1) == 11 * token + 2 * (4 * 8 * 4 + 3 * 2)
    assert row_needs([full, state], 64, 0, states=False) == 64 * token


def test_one_row_has_nobody_beside_it() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        CachesOptions(rows=1)
