"""``dflash-bench policy``: what the block policy loses against the best fixed block in hindsight.

Replays acceptance traces on cost tables of several machines; no device is used, and no clock.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.figures import short_of
from dflash_serve.bench.options import PolicyOptions
from dflash_serve.bench.policy_machines import Machine, machines
from dflash_serve.bench.policy_record import RECORDINGS, read_recording
from dflash_serve.bench.policy_replay import BLOCKS, Noise, Replay, Workload, generated, replay
from dflash_serve.bench.report import Columns, Panel, lines, picture, table_of
from dflash_serve.measure.figures import middle
from dflash_serve.measure.results import Result

OF_BEST, OF_PLAIN = 0.95, 0.98
"""What the policy must reach of the best fixed choice, and of plain decoding."""


def run(options: PolicyOptions) -> Result:
    """Replay every workload on every machine, at each number of rows."""
    paths = options.recordings or tuple(sorted(RECORDINGS.glob("*.json")))
    recordings = [read_recording(path) for path in paths]
    tables = [*machines(), *(recording.machine for recording in recordings)]
    recorded = [recording.workload for recording in recordings]
    cases = [
        _case(machine, rows, workload, options)
        for machine in tables
        for rows in options.rows
        for workload in _workloads(recorded, rows, options)
    ]
    worst = {name: min(case[name] for case in cases) for name in ("of_best", "of_plain")}
    settings = options.recorded() | {
        "recordings": [path.name for path in paths],
        "least_of_best": OF_BEST,
        "least_of_plain": OF_PLAIN,
    }
    measured = {
        "worst": worst,
        "median": {name: middle([case[name] for case in cases]) for name in worst},
        "cases": cases,
    }
    return Result("policy", settings, measured, tuple(short_of(cases, _name, OF_BEST, OF_PLAIN)))


def _workloads(
    recorded: Sequence[Workload], rows: int, options: PolicyOptions
) -> Iterator[Workload]:
    """Enough requests for ``turns`` in each of ``rows``; recorded ones as often as tokens need."""
    count = rows * options.turns
    yield from generated(count, options.tokens, options.seed)
    for workload in recorded:
        mean = sum(trace.rounds for trace in workload.traces) / len(workload.traces)
        yield workload.repeated(max(count, round(count * options.tokens / mean)))


def _case(
    machine: Machine, rows: int, workload: Workload, options: PolicyOptions
) -> dict[str, Any]:
    """One machine, batch and workload: the rates of plain, each fixed block, and the policy."""
    traces, longest = workload.traces, min(workload.block, machine.block)
    noise = Noise(options.jitter, options.slow, seed=options.seed)
    plain = replay(traces, machine, rows).rate
    blocks = [block for block in BLOCKS if block <= longest]
    fixed = {block: replay(traces, machine, rows, block).rate for block in blocks}
    auto = replay(traces, machine, rows, longest, auto=noise)
    best = max(fixed, key=lambda block: fixed[block])
    if plain >= fixed[best]:
        best = 1
    return {
        "machine": machine.name,
        "rows": rows,
        "workload": workload.name,
        "plain": plain,
        "fixed": {str(block): rate for block, rate in fixed.items()},
        "auto": auto.rate,
        "best_block": best,
        "of_best": auto.rate / max(plain, fixed.get(best, 0.0)),
        "of_plain": auto.rate / plain,
        "widths": _shares(auto),
    }


def _shares(auto: Replay) -> dict[str, float]:
    """Parts of the rounds by their width."""
    return {str(width): count / auto.rounds for width, count in sorted(auto.widths.items())}


def _name(case: Mapping[str, Any]) -> str:
    return f"{case['machine']}, {case['rows']} rows, {case['workload']}"


def tables(result: Result) -> list[Table]:
    """All cases, then the worst and the median."""
    measured = result.measured
    columns: Columns = [
        *("machine", "rows", "workload", "plain", "best_block"),
        ("best of plain", lambda case: max(case["plain"], *case["fixed"].values()) / case["plain"]),
        *("of_best", "of_plain"),
        ("widths", lambda case: " ".join(f"{w}:{s:.0%}" for w, s in case["widths"].items())),
    ]
    sums = [{"of all cases": name} | measured[name] for name in ("worst", "median")]
    return [
        table_of("The policy against fixed blocks, in hindsight", measured["cases"], columns),
        table_of("All cases", sums, ("of all cases", "of_best", "of_plain")),
    ]


def plot(result: Result) -> Figure:
    """What the policy reaches of the best fixed choice, by machine, with one mark per case."""

    def field(title: str, key: str) -> Panel:
        least = result.settings[f"least_{key}"]
        cases = result.measured["cases"]
        return lines(title, cases, "machine", key, "machine", style="points", limit=least)

    return picture(
        field("auto, of the best fixed choice", "of_best"),
        field("auto, of plain decoding", "of_plain"),
    )
