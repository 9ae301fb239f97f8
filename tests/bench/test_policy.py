"""`dflash-bench policy`: recorded traces are the engine's own rounds, and the policy's bounds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dflash_serve.bench import policy
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import PolicyOptions, RecordOptions
from dflash_serve.bench.pair import PairChoice, load_pair
from dflash_serve.bench.policy import OF_BEST, OF_PLAIN
from dflash_serve.bench.policy_machines import Machine, interpolated, machines
from dflash_serve.bench.policy_record import (
    RECORDINGS,
    read_recording,
    record,
    run_record,
)
from dflash_serve.bench.policy_replay import Trace, as_json, from_json, generated, replay
from dflash_serve.bench.report import Destination, write
from dflash_serve.bench.simulated import EchoDrafter
from dflash_serve.bench.workloads import synthetic
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest
from dflash_serve.measure.driver import run_all
from tests.bench.conftest import Stored

# four plain rounds: drafts right from the first token on, wrong after the third
TRACE = Trace("made", {2: (1, 1, 0, 0), 4: (2, 1, 0, 0)})


def steps(milliseconds: float) -> Machine:
    """Rounds cost that much per token of their width, plain ones one millisecond."""
    rounds = {width: {1: milliseconds * width, 8: milliseconds * width} for width in (1, 2, 4)}
    return interpolated("steps", {1: 1.0, 8: 1.0}, rounds)


def rounds_of(trace: Trace, block: int) -> list[int]:
    taken, position = [], 0
    while position < trace.rounds:
        taken.append(trace.committed(position, block))
        position += taken[-1]
    return taken


def test_a_round_commits_what_was_recorded_for_its_block() -> None:
    assert rounds_of(TRACE, 1) == [1, 1, 1, 1]
    assert rounds_of(TRACE, 2) == [2, 1, 1]
    assert rounds_of(TRACE, 4) == [3, 1]
    assert TRACE.committed(0, 3) == 3  # a longer block, cut
    assert from_json(json.loads(json.dumps(as_json([TRACE])))) == [TRACE]


def test_a_replay_takes_the_seconds_of_its_rounds() -> None:
    traces = [TRACE, TRACE, TRACE]
    plain = replay(traces, steps(0.5), rows=2)
    assert (plain.tokens, plain.seconds) == (12, pytest.approx(8.0))  # two rows, then one
    drafted = replay(traces, steps(0.5), rows=2, block=4)
    assert drafted.tokens == 12
    # two rounds each, of which the second has one token left: block 1
    assert drafted.seconds == pytest.approx(2 * (4 + 1) * 0.5)
    assert drafted.widths == {4: 2, 1: 2}


def test_made_up_traces_depend_on_the_seed_alone() -> None:
    assert generated(3, 40, 5) == generated(3, 40, 5)
    assert generated(3, 40, 5) != generated(3, 40, 6)
    means = {
        workload.name: sum(len(rounds_of(trace, 16)) for trace in workload.traces)
        for workload in generated(8, 400, 0)
    }
    assert 8 * 400 / means["easy"] == pytest.approx(7.0, rel=0.1)
    assert 8 * 400 / means["useless"] == pytest.approx(1.05, rel=0.03)


def test_recorded_traces_replay_the_rounds_of_the_engine(stored: Stored) -> None:
    loaded = load_pair(PairChoice(str(stored.target), str(stored.drafter)))
    assert loaded.drafter is not None
    pair = replace(loaded, drafter=EchoDrafter(loaded.drafter))  # accepted now and then
    prompts = synthetic(3, 6, pair.target.vocab_size, 1)
    traces = record(pair, prompts, 24)
    assert any(count for trace in traces for count in trace.accepted[4])
    for block in (2, 4):
        runner = DeviceRunner(pair.target, pair.drafter, block, compiled=False)
        requests = [
            EngineRequest(str(number), prompt.tokens, 24) for number, prompt in enumerate(prompts)
        ]
        run = run_all(runner, EngineConfig(block_size=block), requests)
        runner.close()
        for number, trace in enumerate(traces):
            assert rounds_of(trace, block) == run.answers[str(number)].committed


def test_a_recording_holds_traces_and_costs(stored: Stored, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "pair.json"
    run_record(
        RecordOptions(
            path=path,
            target=str(stored.target),
            drafter=str(stored.drafter),
            prompt_file=stored.prompts,
            prompts=2,
            max_tokens=6,
            rows=(1,),
        )
    )
    recording = read_recording(path)
    assert recording.workload.name == "pair"
    assert recording.machine.round(1, 4) > 0
    assert recording.machine.plain(1) > 0


@pytest.mark.parametrize("text", ["[]", "{}", '{"traces": [], "costs": {}}', "no json"])
def test_a_file_that_is_no_recording_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BenchError, match=r"bad\.json is no recording"):
        read_recording(path)


def test_wider_rounds_and_more_rows_never_cost_less() -> None:
    for machine in machines():
        for rows in (1, 8, 32):
            costs = [machine.round(rows, width) for width in (1, 2, 4, 8, 16)]
            assert costs == sorted(costs)
            assert machine.plain(rows) <= costs[0]
        assert machine.plain(1) <= machine.plain(8) <= machine.plain(32)


def test_a_replay_is_the_same_every_time_and_complete(tmp_path: Path) -> None:
    options = PolicyOptions(rows=(2,), recordings=(RECORDINGS / "demo.json",), tokens=48, turns=1)
    result = policy.run(options)
    assert policy.run(options).measured == result.measured
    shown = {case["workload"] for case in result.measured["cases"]}
    assert {"easy", "mixed", "useless", "phases", "unlike rows", "demo"} == shown
    path = write(result, Destination(tmp_path / "p.json"), lambda: policy.plot(result))
    assert path is not None
    assert path.with_suffix(".png").stat().st_size > 0
    assert len(policy.tables(result)) == 2


def test_the_policy_keeps_up_with_the_best_fixed_block() -> None:
    """One row on estimated machines; `dflash-bench policy` holds all cases to the same bounds."""
    recordings = (RECORDINGS / "demo.json",)
    result = policy.run(PolicyOptions(rows=(1,), recordings=recordings))
    estimates = {machine.name for machine in machines()}  # a recorded one is as noisy as its run
    cases = [case for case in result.measured["cases"] if case["machine"] in estimates]
    short = {case["workload"]: case["of_best"] for case in cases if case["of_best"] < OF_BEST}
    assert not short
    assert min(case["of_plain"] for case in cases) >= OF_PLAIN
