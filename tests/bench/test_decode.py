"""`dflash-bench decode` on tiny pairs: equal tokens, complete figures, known acceptances."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from pydantic import ValidationError

from dflash_serve.bench import decode
from dflash_serve.bench.arms import make_arm, measure
from dflash_serve.bench.baseline import run_mlx_lm
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import DecodeOptions
from dflash_serve.bench.pair import PairChoice, load_pair
from dflash_serve.bench.report import Destination, write
from dflash_serve.bench.simulated import (
    SimulatedDrafter,
    VerifyOnly,
    expected_tokens,
    seeded_hits,
    solve_probability,
)
from dflash_serve.bench.work import make_work
from dflash_serve.measure.results import Result
from tests.bench.conftest import Stored


def simulated(**changes: Any) -> Result:
    options = {
        "random_target": "qwen3-tiny",
        "prompts": 2,
        "prompt_length": 8,
        "batches": (1,),
        "block_sizes": (4,),
        "max_tokens": 13,
        "repeats": 1,
    }
    return decode.run(DecodeOptions(**(options | changes)))


def arm(result: Result, block: int) -> dict[str, Any]:
    found: dict[str, Any] = next(
        entry for entry in result.measured["batches"][0]["arms"] if entry["block"] == block
    )
    return found


def test_a_stored_pair_gives_equal_tokens_and_all_figures(stored: Stored, tmp_path: Path) -> None:
    result = decode.run(
        DecodeOptions(
            target=str(stored.target),
            drafter=str(stored.drafter),
            prompt_file=stored.prompts,
            prompts=4,
            batches=(2,),
            block_sizes=(4,),
            max_tokens=8,
            repeats=2,
        )
    )
    assert result.failures == ()
    assert result.measured["different_answers"] == 0
    drafted = arm(result, 4)
    for figure in ("decode", "end_to_end"):
        assert len(drafted[figure]["speedup_per_repeat"]) == 2
        assert drafted[f"speedup_{figure}"] > 0
    assert set(drafted["kinds"]) == {"sum", "story"}
    assert len(drafted["histogram"]) == 5
    assert sum(drafted["histogram"]) == drafted["rounds"]
    (costs,) = result.measured["batches"][0]["step_costs"]
    assert {"plain_ms", "verify_ms", "draft_ms", "speedup_bound"} <= set(costs)
    path = write(result, Destination(tmp_path / "d.json"), lambda: decode.plot(result))
    assert path is not None
    written = json.loads(path.read_text(encoding="utf-8"))
    assert {"machine", "versions", "commit", "blas", "settings", "date", "argv"} <= set(written)
    assert path.with_suffix(".png").stat().st_size > 0
    assert len(decode.tables(result)) == 4


@pytest.mark.parametrize(("acceptance", "tokens_per_round"), [(1.0, 4.0), (0.0, 1.0)])
def test_drafts_fill_every_block_or_cost_a_round_per_token(
    acceptance: float, tokens_per_round: float
) -> None:
    """12 tokens after the first one: three full blocks, or twelve rounds."""
    result = simulated(acceptance=acceptance)
    assert arm(result, 4)["tokens_per_round"] == tokens_per_round
    assert arm(result, 4)["accepted_per_proposed"] == acceptance
    assert result.failures == ()


def test_simulated_rows_of_a_batch_are_right_too() -> None:
    result = simulated(acceptance=0.5, batches=(3,), prompts=5)
    assert result.failures == ()
    assert 1.0 < arm(result, 4)["tokens_per_round_pooled"] < 4.0


@pytest.mark.parametrize("right", [True, False])
def test_simulated_drafts_are_tokens_also_where_they_are_wrong(right: bool) -> None:
    """Of a vocabulary of five; an embedding reads whatever memory lies behind its own."""
    oracle = (4, 0, 3, 4, 1)
    drafter = SimulatedDrafter(VerifyOnly(mx.float32), oracle, np.full((1, 5), right))
    caches: Any = [SimpleNamespace(offset=mx.array([0]))]
    drafts = np.array(drafter.draft(mx.array([4]), 5, caches).chain())
    assert np.array_equal(drafts[0] == oracle[1:], [right] * 4)
    assert 0 <= drafts.min() <= drafts.max() < 5


@pytest.mark.parametrize(("tau", "block"), [(1.0, 4), (2.5, 4), (5.0, 8), (8.0, 8)])
def test_the_probability_for_a_number_of_tokens_per_round(tau: float, block: int) -> None:
    assert expected_tokens(solve_probability(tau, block), block) == pytest.approx(tau)


def test_an_arm_tells_where_it_leaves_the_reference() -> None:
    options = DecodeOptions(random_target="qwen3-tiny", prompts=2, prompt_length=8, max_tokens=3)
    pair = load_pair(options.pair)
    work = make_work(options, pair)
    plain = make_arm(pair, work, "plain", work.config(1, 1))
    measure([plain], 1)
    tokens = {name: tuple(answer.tokens) for name, answer in plain.runs[0].answers.items()}
    assert plain.departure(tokens) is None
    first, second, third = tokens["1"]
    changed = plain.departure(tokens | {"1": (first, second + 1, third)})
    assert changed == f"plain: request 1, token 1 is {second} and not {second + 1}"
    longer = plain.departure(tokens | {"1": (*tokens["1"], 7)})
    assert longer == "plain: request 1, token 3 is None and not 7"


def test_more_tokens_than_the_block_cannot_be_asked_for() -> None:
    with pytest.raises(BenchError, match="--tau is 9"):
        solve_probability(9.0, 8)


def test_hits_depend_on_the_seed_alone() -> None:
    assert np.array_equal(seeded_hits(0.3, 2, 50, 7), seeded_hits(0.3, 2, 50, 7))
    assert not np.array_equal(seeded_hits(0.3, 2, 50, 7), seeded_hits(0.3, 2, 50, 8))


def test_mlx_lm_decodes_the_same_tokens(stored: Stored) -> None:
    choice = PairChoice(str(stored.target), "none")
    pair = load_pair(choice)
    random_drafter = load_pair(PairChoice(str(stored.target), "random"))
    assert pair.drafter is None
    options = DecodeOptions(prompt_file=stored.prompts, prompts=2, max_tokens=6)
    work = make_work(options, random_drafter)
    prompts = [request.prompt for request in work.requests]
    run = run_mlx_lm("float32", stored.target, prompts, 6)
    assert [len(answer) for answer in run.answers] == [6, 6]
    assert run.speed.time_per_output_token


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acceptance": 1.5}, "less than or equal to 1"),
        ({"acceptance": 0.5, "tau": 2.0}, "exclude each other"),
        ({"acceptance": 0.5, "temperature": 1.0}, "--temperature"),
        ({"acceptance": 0.5, "block_sizes": (4, 8)}, "takes one --block-size"),
        ({"baselines": ("fastest",)}, "as-installed"),
        ({"acceptance": 0.5, "baselines": ("as-installed",)}, "--baseline needs"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((BenchError, ValidationError), match=message):
        simulated(**changes)
