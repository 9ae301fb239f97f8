"""``dflash-bench decode``: speculative against plain decoding, in one process and one engine.

All arms run the same requests in turns, so that drift of the machine falls on all of them alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.adapters.base import FillingDrafter
from dflash_serve.adapters.exactness import exact_path
from dflash_serve.bench import figures
from dflash_serve.bench.arms import Arm, make_arm, measure
from dflash_serve.bench.baseline import BaselineRun, run_mlx_lm
from dflash_serve.bench.components import measure_costs
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import DecodeOptions
from dflash_serve.bench.pair import Pair, load_pair, second_of
from dflash_serve.bench.report import percent, table, table_of, times
from dflash_serve.bench.work import Work, make_work
from dflash_serve.measure.driver import Answer, Run
from dflash_serve.measure.figures import (
    Speed,
    middle,
    ratio,
    speedup_decode,
    speedup_end_to_end,
)
from dflash_serve.measure.results import Result


@dataclass(slots=True)
class Baseline:
    """mlx-lm's own decoding of the same requests. Runs grow with repeats."""

    name: str
    measure: Callable[[], BaselineRun]
    runs: list[BaselineRun] = field(default_factory=list)

    def record(self) -> None:
        self.runs.append(self.measure())


def run(options: DecodeOptions) -> Result:
    """Load, warm up, measure all batches, compare tokens."""
    pair = load_pair(options.pair)
    if pair.drafter is None:
        raise BenchError("there is no drafter to measure; give --drafter or --random-target")
    blocks = options.blocks or (pair.drafter.runtime_block_size,)
    work = make_work(options, pair)
    bench = _Bench(options, pair, work, blocks)
    batches = [bench.measure(batch) for batch in options.batches]
    # mlx-lm in another dtype may well choose other tokens: reported, but no failure of ours
    entries = [entry for batch in batches for entry in batch["arms"] if entry["block"]]
    different = sum(entry["different_answers"] for entry in entries)
    exact = exact_path()
    failures = [f"{different} answers differ from plain decoding"] if exact and different else []
    measured = {
        "pair": pair.describe(),
        "simulation": work.simulation,
        "requests": len(work.requests),
        "prompt_tokens": sum(len(request.prompt) for request in work.requests),
        "exact_path": exact,
        "different_answers": different,
        "batches": batches,
    }
    name = "decode-simulated" if options.simulated else "decode"
    return Result(name, options.recorded() | {"blocks": blocks}, measured, tuple(failures))


class _Bench:
    """Measures one workload at several batch sizes. Owner of the reference answers."""

    def __init__(
        self, options: DecodeOptions, pair: Pair, work: Work, blocks: Sequence[int]
    ) -> None:
        self._options = options
        self._pair = pair
        self._work = work
        self._blocks = blocks
        self._reference: dict[str, tuple[int, ...]] = {}
        self._second = second_of(options.pair, options.second_drafter, pair, max(blocks))

    def measure(self, batch: int) -> dict[str, Any]:
        """All arms at one batch size, in turns."""
        plain, *_ = arms = self._arms(batch)
        baselines = [self._baseline(name) for name in self._options.baselines if batch == 1]
        warm, *_ = measure(arms, self._options.repeats, [one.record for one in baselines])
        # the first batch's plain answers are what every other run is compared with
        self._reference = self._reference or figures.tokens_of(warm)
        entries = [self._entry(arm, plain, batch) for arm in arms]
        chains = [one for one in entries if one["block"] > 1 and one["kinds_of_round"] == [0]]
        costs = [self._costs(batch, entry, entries[0]) for entry in chains]
        entries += [self._baseline_entry(one, plain) for one in baselines]
        return {"batch": batch, "arms": entries, "step_costs": costs}

    def _arms(self, batch: int) -> list[Arm]:
        """Plain first; trees of each size, with the second drafter too, and the engine's choice."""
        widest, trees = max(self._blocks), self._options.trees
        arms = [self._arm("plain", batch, 1)]
        arms += [self._arm(f"block {block}", batch, block) for block in self._blocks]
        arms += [self._arm(f"tree {nodes}", batch, widest, (nodes,)) for nodes in trees]
        if self._second is not None:
            arms += [
                self._arm(f"two drafters, tree {nodes}", batch, widest, (nodes,), self._second)
                for nodes in trees
            ]
        return [*arms, self._arm("auto", batch, widest, (0, *trees))] if trees else arms

    def _arm(
        self,
        name: str,
        batch: int,
        block: int,
        kinds: tuple[int, ...] = (0,),
        second: FillingDrafter | None = None,
    ) -> Arm:
        config = self._work.config(batch, block, tree_nodes=kinds)
        drafter = self._work.drafter if block > 1 else None
        return make_arm(self._pair, self._work, name, config, drafter, second)

    def _baseline(self, variant: str) -> Baseline:
        directory = self._pair.directory
        if directory is None or self._work.simulation or self._options.temperature > 0:
            raise BenchError("--baseline needs a stored target, its own prompts and temperature 0")
        prompts = [request.prompt for request in self._work.requests]
        measure = partial(run_mlx_lm, variant, directory, prompts, self._options.max_tokens)
        return Baseline(f"mlx-lm {variant}", measure)

    def _baseline_entry(self, baseline: Baseline, plain: Arm) -> dict[str, Any]:
        wanted = [self._reference[request.id] for request in self._work.requests]
        last = baseline.runs[-1].answers
        speeds = [run.speed for run in baseline.runs]
        return {
            "name": baseline.name,
            "block": 0,
            "kinds_of_round": [0],
            "different_answers": sum(a != b for a, b in zip(last, wanted, strict=True)),
            **_speeds(speeds, [run.speed for run in plain.runs]),
        }

    def _entry(self, arm: Arm, plain: Arm, batch: int) -> dict[str, Any]:
        block = arm.config.block_size
        speeds = [run.speed for run in arm.runs]
        drafting = figures.acceptance(arm.answers, block) if block > 1 else {}
        return {
            "name": arm.name,
            "block": block,
            "kinds_of_round": list(arm.config.tree_nodes),
            "different_answers": arm.different(self._reference),
            **_speeds(speeds, [run.speed for run in plain.runs]),
            "steps_tokens_per_second": middle(arm.step_rates),
            "outside_mlx_fraction": _outside(arm.runs, batch),
            "kinds": self._kinds(arm, plain),
            **drafting,
        }

    def _kinds(self, arm: Arm, plain: Arm) -> dict[str, Any]:
        """Per kind: tokens per round, and the time per token of one request."""
        own, base = _by_kind(arm.runs, self._work.kinds), _by_kind(plain.runs, self._work.kinds)
        seconds = {kind: figures.seconds_per_token(answers) for kind, answers in own.items()}
        return {
            kind: {
                "time_per_output_token": seconds[kind],
                "speedup_decode": ratio(figures.seconds_per_token(base[kind]), seconds[kind]),
                **figures.both_rounds(answers),
            }
            for kind, answers in own.items()
        }

    def _costs(
        self, batch: int, entry: Mapping[str, Any], plain: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Step times by themselves, and the speedup that they allow at the measured acceptance."""
        rows = min(batch, len(self._work.requests))
        length = self._work.typical_length
        costs = measure_costs(self._pair.target, self._work.drafter, rows, entry["block"], length)
        tau = entry["tokens_per_round_pooled"]
        bound = tau * costs.plain / (costs.draft + costs.verify)
        reached = ratio(entry["steps_tokens_per_second"], plain["steps_tokens_per_second"])
        return costs.as_dict() | {
            "speedup_bound": bound,
            "achieved_of_bound": ratio(reached, bound),
        }


def _speeds(runs: Sequence[Speed], plain: Sequence[Speed]) -> dict[str, Any]:
    """Both speedups, as ratios of medians over repeats, and what each repeat gave."""
    rates, plain_rates = _rates(runs), _rates(plain)
    times, plain_times = _times(runs), _times(plain)
    return {
        "speedup_end_to_end": ratio(middle(rates), middle(plain_rates)),
        "speedup_decode": ratio(middle(plain_times), middle(times)),
        "end_to_end": {
            "tokens_per_second": middle(rates),
            "repeats": rates,
            "speedup_per_repeat": _each(speedup_end_to_end, runs, plain),
        },
        "decode": {
            "time_per_output_token": middle(times),
            "repeats": times,
            "speedup_per_repeat": _each(speedup_decode, runs, plain),
        },
    }


def _rates(runs: Sequence[Speed]) -> list[float]:
    return [run.tokens_per_second or 0.0 for run in runs]


def _times(runs: Sequence[Speed]) -> list[float]:
    return [run.time_per_output_token or 0.0 for run in runs]


def _each(
    speedup: Callable[[Speed, Speed], float | None], runs: Sequence[Speed], plain: Sequence[Speed]
) -> list[float | None]:
    return [speedup(one, other) for one, other in zip(runs, plain, strict=True)]


def _by_kind(runs: Sequence[Run], kinds: Mapping[str, str]) -> dict[str, list[Answer]]:
    """The answers of all repeats."""
    grouped = [figures.by_kind(run.answers, kinds) for run in runs]
    return {kind: [one for group in grouped for one in group[kind]] for kind in grouped[0]}


def _outside(runs: Sequence[Run], rows: int) -> float | None:
    """Median over repeats; None where no decode-only step had all rows."""
    found = [fraction for run in runs if (fraction := run.outside_fraction(rows)) is not None]
    return middle(found) if found else None


def tables(result: Result) -> list[Table]:
    """Speeds, acceptance, kinds and step costs."""
    batches = result.measured["batches"]
    made = [_speed_table(batches), _acceptance(batches)]
    made += [_kinds(batch) for batch in batches[:1]]
    made.append(_costs(batches))
    return made


def plot(result: Result) -> Figure:
    """Speedup over plain by batch size, and the histogram of committed tokens per round."""
    batches = result.measured["batches"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    speed, rounds = figure.subplots(1, 2)
    for name in [arm["name"] for arm in batches[0]["arms"] if arm["block"]]:
        arms = [_arm(batch, name) for batch in batches]
        x = [batch["batch"] for batch in batches]
        speed.plot(x, [arm["speedup_end_to_end"] for arm in arms], "o-", label=name)
    speed.set(title="speedup, prompts included", xlabel="batch size", ylim=(0, None))
    speed.legend()
    for arm in batches[0]["arms"]:
        if arm["block"] > 1:
            counts = arm["histogram"]
            share = [count / max(1, sum(counts)) for count in counts]
            rounds.plot(range(len(share)), share, "o-", label=arm["name"])
    rounds.set(title="rounds by committed tokens", xlabel="tokens", ylabel="share")
    rounds.legend()
    return figure


def _arm(batch: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(arm for arm in batch["arms"] if arm["name"] == name)
    return found


def _speed_table(batches: list[dict[str, Any]]) -> Table:
    return table_of(
        "Speed",
        _named(batches, lambda arm: True),
        (
            ("", "row"),
            ("tok/s, prompts included", "end_to_end.tokens_per_second"),
            ("speedup", times("speedup_end_to_end")),
            ("repeats", lambda arm: _span(arm["end_to_end"]["speedup_per_repeat"])),
            ("decode ms/token", lambda arm: 1e3 * arm["decode"]["time_per_output_token"]),
            ("speedup", times("speedup_decode")),
            ("repeats", lambda arm: _span(arm["decode"]["speedup_per_repeat"])),
            ("outside MLX", percent("outside_mlx_fraction")),
            ("different", "different_answers"),
        ),
    )


def _acceptance(batches: list[dict[str, Any]]) -> Table:
    return table_of(
        "Acceptance",
        _named(batches, lambda arm: arm["block"] > 1),
        (
            ("", "row"),
            ("tokens/round", "tokens_per_round"),
            ("pooled", "tokens_per_round_pooled"),
            ("accepted/proposed", percent("accepted_per_proposed")),
            ("accepted/generated", percent("accepted_per_generated")),
            ("above 3", percent("share_above_3")),
            ("above 5", percent("share_above_5")),
            ("rounds", "rounds"),
        ),
    )


def _named(
    batches: list[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    """The arms that are wanted, called by their batch size too."""
    return [
        arm | {"row": f"batch {batch['batch']}, {arm['name']}"}
        for batch in batches
        for arm in batch["arms"]
        if wanted(arm)
    ]


def _kinds(batch: Mapping[str, Any]) -> Table:
    arms = [arm for arm in batch["arms"] if arm["block"] > 1 and arm["kinds_of_round"] == [0]]
    rows = []
    for kind in arms[0]["kinds"]:
        cells: list[object] = [kind]
        for arm in arms:
            found = arm["kinds"][kind]
            cells += [found["tokens_per_round"], found["tokens_per_round_pooled"]]
            cells.append(times("speedup_decode")(found))
        rows.append(cells)
    columns = ["kind"]
    for arm in arms:
        columns += [f"{arm['name']}: tokens/round", "pooled", "decode speedup"]
    return table(f"By kind, batch {batch['batch']}", columns, rows)


def _costs(batches: list[dict[str, Any]]) -> Table:
    return table_of(
        "Step costs",
        (costs for batch in batches for costs in batch["step_costs"]),
        (
            (
                "rows x block at length",
                lambda one: f"{one['rows']} x {one['block']} at {one['length']}",
            ),
            ("plain ms", "plain_ms"),
            ("verify ms", "verify_ms"),
            ("draft ms", "draft_ms"),
            ("round ms", "round_ms"),
            ("break-even", "break_even_tokens_per_round"),
            ("bound", times("speedup_bound")),
            ("achieved", percent("achieved_of_bound")),
        ),
    )


def _span(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.2f}-{max(known):.2f}" if known else "-"
