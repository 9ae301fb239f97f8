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
from dflash_serve.bench.pair import Pair, drafting_pair, second_of
from dflash_serve.bench.report import Columns, lines, percent, picture, table_of, times
from dflash_serve.bench.work import Work, make_work, simulated_work
from dflash_serve.measure.driver import Answer, Run
from dflash_serve.measure.figures import (
    middle,
    ratio,
    speedup_decode,
    speedup_end_to_end,
)
from dflash_serve.measure.results import Result

_SHARES = ("accepted_per_proposed", "accepted_per_generated", "share_above_3", "share_above_5")


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
    pair = drafting_pair(options.pair)
    assert pair.drafter is not None
    blocks = options.blocks or (pair.drafter.runtime_block_size,)
    work = (
        simulated_work(options, pair)
        if options.simulated
        else make_work(options, pair, options.temperature)
    )
    bench = _Bench(options, pair, work, blocks)
    batches = [bench.measure(batch) for batch in options.batches]
    # mlx-lm in another dtype may well choose other tokens: reported, but no failure of ours
    entries = [entry for batch in batches for entry in batch["arms"] if entry["block"]]
    different = sum(entry["different_answers"] for entry in entries)
    where = "; ".join(filter(None, (entry["first_difference"] for entry in entries)))
    failures = figures.unequal(different, f"answers differ from plain decoding ({where})")
    measured = {
        "pair": pair.describe(),
        "simulation": work.simulation,
        "requests": len(work.requests),
        "prompt_tokens": sum(len(request.prompt) for request in work.requests),
        "exact_path": exact_path(),
        "different_answers": different,
        "batches": batches,
    }
    name = "decode-simulated" if options.simulated else "decode"
    return Result(name, options.recorded() | {"blocks": blocks}, measured, failures)


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
        return {
            "name": baseline.name,
            "block": 0,
            "kinds_of_round": [0],
            "different_answers": sum(a != b for a, b in zip(last, wanted, strict=True)),
            **_speeds(baseline.runs, plain.runs),
        }

    def _entry(self, arm: Arm, plain: Arm, batch: int) -> dict[str, Any]:
        block = arm.config.block_size
        drafting = figures.acceptance(arm.answers, block) if block > 1 else {}
        return {
            "name": arm.name,
            "block": block,
            "kinds_of_round": list(arm.config.tree_nodes),
            "different_answers": arm.different(self._reference),
            "first_difference": arm.departure(self._reference),
            **_speeds(arm.runs, plain.runs),
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


def _speeds(runs: Sequence[Run | BaselineRun], plain: Sequence[Run]) -> dict[str, Any]:
    """Both speedups, as ratios of medians over repeats, and what each repeat gave."""
    pairs = [(one.speed, other.speed) for one, other in zip(runs, plain, strict=True)]
    rates, plain_rates = ([one[at].tokens_per_second or 0.0 for one in pairs] for at in (0, 1))
    times, plain_times = ([one[at].time_per_output_token or 0.0 for one in pairs] for at in (0, 1))
    return {
        "speedup_end_to_end": ratio(middle(rates), middle(plain_rates)),
        "speedup_decode": ratio(middle(plain_times), middle(times)),
        "end_to_end": {
            "tokens_per_second": middle(rates),
            "repeats": rates,
            "speedup_per_repeat": [speedup_end_to_end(*pair) for pair in pairs],
        },
        "decode": {
            "time_per_output_token": middle(times),
            "repeats": times,
            "speedup_per_repeat": [speedup_decode(*pair) for pair in pairs],
        },
    }


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
    arms = _arms(batches)
    drafting = [arm for arm in arms if arm["block"] > 1]
    return [
        table_of("Speed", arms, _SPEED),
        table_of("Acceptance", drafting, _ACCEPTANCE),
        _kinds(batches[0]),
        table_of("Step costs", (one for batch in batches for one in batch["step_costs"]), _COSTS),
    ]


_SPEED: Columns = (
    "batch",
    "name",
    ("tok/s, prompts included", "end_to_end.tokens_per_second"),
    ("speedup", times("speedup_end_to_end")),
    ("repeats", lambda arm: _span(arm["end_to_end"]["speedup_per_repeat"])),
    ("decode ms/token", lambda arm: 1e3 * arm["decode"]["time_per_output_token"]),
    ("speedup", times("speedup_decode")),
    ("repeats", lambda arm: _span(arm["decode"]["speedup_per_repeat"])),
    ("outside MLX", percent("outside_mlx_fraction")),
    ("different", "different_answers"),
)
_ACCEPTANCE: Columns = (
    "batch",
    "name",
    ("tokens/round", "tokens_per_round"),
    ("pooled", "tokens_per_round_pooled"),
    *((name.replace("_", " "), percent(name)) for name in _SHARES),
    "rounds",
)
_COSTS: Columns = (
    *("rows", "block", "length", "plain_ms", "verify_ms", "draft_ms", "round_ms"),
    ("break-even", "break_even_tokens_per_round"),
    ("bound", times("speedup_bound")),
    ("achieved", percent("achieved_of_bound")),
)


def _kinds(batch: Mapping[str, Any]) -> Table:
    """Of chains, a row for each kind and arm."""
    kinds = [
        found | {"kind": kind, "name": arm["name"]}
        for arm in batch["arms"]
        if arm["block"] > 1 and arm["kinds_of_round"] == [0]
        for kind, found in arm["kinds"].items()
    ]
    columns: Columns = (
        *("kind", "name", "tokens_per_round", "tokens_per_round_pooled"),
        ("decode speedup", times("speedup_decode")),
    )
    return table_of(f"By kind, batch {batch['batch']}", kinds, columns)


def _span(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.2f}-{max(known):.2f}" if known else "-"


def plot(result: Result) -> Figure:
    """Speedup over plain by batch size, and the histogram of committed tokens per round."""
    batches = result.measured["batches"]
    drafting = [arm for arm in batches[0]["arms"] if arm["block"] > 1]
    shares = [
        {"arm": arm["name"], "tokens": tokens, "share": count / max(1, arm["rounds"])}
        for arm in drafting
        for tokens, count in enumerate(arm["histogram"])
    ]
    own = [arm for arm in _arms(batches) if arm["block"]]
    return picture(
        lines("speedup, prompts included", own, "batch", "speedup_end_to_end", "name"),
        lines("share of rounds by committed tokens", shares, "tokens", "share", "arm"),
    )


def _arms(batches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [arm | {"batch": batch["batch"]} for batch in batches for arm in batch["arms"]]
