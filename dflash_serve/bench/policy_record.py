"""Recordings of a pair on this machine: acceptance traces, and what its rounds cost.

The target's answers come first, by plain decoding; then each of their tokens is an anchor once per
block. What a round writes beyond its anchor, the next one writes again.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dflash_serve.atomic_files import replace_json
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import RecordOptions
from dflash_serve.bench.pair import Pair, drafting_pair
from dflash_serve.bench.policy_machines import Machine, interpolated
from dflash_serve.bench.policy_replay import BLOCKS, Trace, Workload, as_json, from_json
from dflash_serve.bench.report import make_room
from dflash_serve.bench.work import decode_plainly, make_prompts, requests_of
from dflash_serve.bench.workloads import Prompt
from dflash_serve.engine.plan import DecodeRow, PrefillRow, StepPlan
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import SamplingParams
from dflash_serve.measure.prompts import check_file
from dflash_serve.provenance import origin

RECORDINGS = Path(__file__).parent / "recordings"
"""Of the demo target with its drafters, on its held-out prompts."""
_ROWS = 8
_PASSES, _UNTIMED, _TIMED = 5, 4, 32
_HELD = 96
"""Tokens of the prompts of rows whose rounds are timed."""
_GREEDY = SamplingParams()


@dataclass(frozen=True, slots=True)
class Recording:
    """A pair's traces, and the machine that they were recorded on with the pair's costs."""

    workload: Workload
    machine: Machine


def read_recording(path: Path) -> Recording:
    """What `run_record` wrote.

    Raises:
        BenchError: the file cannot be read or holds something else.
        DataError: it is no file.
    """
    check_file(path, pipes=True)
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
        traces = tuple(from_json(stored["traces"]))
        costs = stored["costs"]
        plain = _seconds(costs["plain_ms"])
        rounds = {int(width): _seconds(times) for width, times in costs["round_ms"].items()}
        workload = Workload(path.stem, traces)
        if not {1, *(size for size in BLOCKS if size <= workload.block)} <= rounds.keys():
            raise ValueError("costs of some widths are missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} is no recording of a pair: {error}") from error
    return Recording(workload, interpolated(f"CPU, {path.stem}", plain, rounds))


def run_record(options: RecordOptions) -> None:
    """Record the pair on its prompts, and its costs on this machine.

    Raises:
        BenchError: the pair cannot be recorded, or the file not be written.
    """
    path = options.path
    make_room(path)
    pair = drafting_pair(options.pair)
    prompts = make_prompts(options, pair, options.prompts)
    stored = {
        **origin(),
        "pair": pair.describe(),
        "costs": measure(pair, options.rows),
        "traces": as_json(record(pair, prompts, options.max_tokens)),
    }
    try:
        replace_json(path, stored)
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror or error}") from error


def record(pair: Pair, prompts: Sequence[Prompt], max_tokens: int) -> list[Trace]:
    """A trace per prompt whose answer has at least two tokens, blocks as the drafter allows.

    Raises:
        BenchError: the target's caches cannot go back to any token.
    """
    blocks = _blocks(pair)
    with closing(DeviceRunner(pair.target, pair.drafter, max(blocks), compiled=False)) as runner:
        if not runner.shows_context:
            raise BenchError("traces can be recorded only of targets whose caches hold every token")
        answers = _answers(pair, prompts, max_tokens)
        asked = [one for one in zip(prompts, answers, strict=True) if len(one[1]) > 1]
        groups = (asked[start : start + _ROWS] for start in range(0, len(asked), _ROWS))
        return [trace for group in groups for trace in _traces(runner, group, blocks)]


def _blocks(pair: Pair) -> list[int]:
    assert pair.drafter is not None
    return [block for block in BLOCKS if block <= pair.drafter.block_size]


def measure(pair: Pair, numbers: Sequence[int]) -> dict[str, Any]:
    """Milliseconds of rounds by width and rows, and of plain ones, as `read_recording` takes them.

    A round's time is its least in a few passes, which repeat it: what the machine does when it is
    left alone.
    """
    blocks = [1, *_blocks(pair)]
    plain = DeviceRunner(pair.target, None, 1)
    drafting = DeviceRunner(pair.target, pair.drafter, max(blocks))
    arms = [(plain, 1), *((drafting, block) for block in blocks)]
    times = np.array(
        [
            [[_burst(runner, rows, block) for rows in numbers] for runner, block in arms]
            for _ in range(_PASSES)
        ]
    )  # [passes, arms, numbers, rounds]
    means = 1e3 * times.min(axis=0).mean(axis=-1)
    first, *others = (
        {str(rows): float(mean) for rows, mean in zip(numbers, arm, strict=True)} for arm in means
    )
    plain.close()
    drafting.close()
    named = {str(block): times for block, times in zip(blocks, others, strict=True)}
    return {"plain_ms": first, "round_ms": named}


def _burst(runner: DeviceRunner, rows: int, block: int) -> list[float]:
    """Seconds of successive rounds: what is put off from one to a later one counts there."""
    prompt = tuple(range(1, _HELD + 1))
    prefill = tuple(PrefillRow(row, 0, prompt, True, _GREEDY) for row in range(rows))
    chosen = runner.run(StepPlan(prefill=prefill)).prefill
    held = [_HELD] * rows
    times = []
    for _ in range(_UNTIMED + _TIMED):
        decode = tuple(
            DecodeRow(row, length, last.tokens[-1], block, _GREEDY)
            for row, (length, last) in enumerate(zip(held, chosen, strict=True))
        )
        started = time.perf_counter()
        chosen = runner.run(StepPlan(decode=decode)).decode
        times.append(time.perf_counter() - started)
        held = [length + len(last.tokens) for length, last in zip(held, chosen, strict=True)]
    runner.run(StepPlan(closed=tuple(range(rows))))
    return times[_UNTIMED:]


def _seconds(times: Mapping[str, float]) -> dict[int, float]:
    return {int(rows): float(milliseconds) / 1e3 for rows, milliseconds in times.items()}


def _answers(pair: Pair, prompts: Sequence[Prompt], max_tokens: int) -> list[list[int]]:
    """What plain decoding generates, the token that stops an answer included."""
    requests = requests_of(prompts, max_tokens)
    run = decode_plainly(pair.target, requests, _ROWS)
    answers = (run.answers[request.id] for request in requests)
    return [
        [*answer.tokens, *([] if answer.stop_token is None else [answer.stop_token])]
        for answer in answers
    ]


def _traces(
    runner: DeviceRunner, asked: Sequence[tuple[Prompt, list[int]]], blocks: Sequence[int]
) -> list[Trace]:
    """Of rows that are recorded together: a round of each block from every token but the last."""
    for row, (prompt, _) in enumerate(asked):
        runner.run(StepPlan(prefill=(PrefillRow(row, 0, prompt.tokens, True, _GREEDY),)))
    found: list[dict[int, list[int]]] = [{block: [] for block in blocks} for _ in asked]
    for position in range(max(len(answer) for _, answer in asked) - 1):
        live = [
            (row, len(prompt.tokens) + position, answer[position])
            for row, (prompt, answer) in enumerate(asked)
            if position < len(answer) - 1
        ]
        for block in blocks:
            decode = tuple(DecodeRow(*anchor, block, _GREEDY) for anchor in live)
            result = runner.run(StepPlan(decode=decode))
            for (row, _, _), chosen in zip(live, result.decode, strict=True):
                found[row][block].append(len(chosen.tokens) - 1)
    runner.run(StepPlan(closed=tuple(range(len(asked)))))
    return [
        Trace(prompt.kind, {block: tuple(counts) for block, counts in one.items()})
        for (prompt, _), one in zip(asked, found, strict=True)
    ]
