"""``dflash-bench sweep``: the engine's own choice of blocks against every fixed one, and plain.

All arms run the same requests in turns in one process. A ratio is the median over repeats of the
ratio within a repeat; each run begins with no knowledge of the drafts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.adapters.base import DraftAdapter
from dflash_serve.adapters.exactness import exact_path
from dflash_serve.bench import figures
from dflash_serve.bench.arms import Arm, make_arm, measure
from dflash_serve.bench.options import SweepOptions
from dflash_serve.bench.pair import Pair, drafting_pair
from dflash_serve.bench.report import lines, picture, table_of
from dflash_serve.bench.simulated import EchoDrafter
from dflash_serve.bench.work import Work, make_work
from dflash_serve.engine.block_policy import widths_to
from dflash_serve.measure.figures import middle
from dflash_serve.measure.results import Result

OF_BEST, OF_PLAIN = 0.97, 0.98
"""What the engine's choice must reach of the best fixed block, and of plain decoding."""
_EASY = 4
"""Kinds that are called easy."""


def run(options: SweepOptions) -> Result:
    """All sets at all batch sizes."""
    pair = drafting_pair(options.pair)
    assert pair.drafter is not None
    block = pair.drafter.block_size
    mixed = make_work(options, pair)
    works = {name: _work(name, mixed, options, pair) for name in options.sets}
    cases = [
        _case(pair, work, name, batch, options.repeats)
        for name, work in works.items()
        for batch in options.batches
    ]
    different = sum(case["different_answers"] for case in cases)
    measured = {
        "pair": pair.describe(),
        "exact_path": exact_path(),
        "different_answers": different,
        "worst_of_best": min(case["of_best"] for case in cases),
        "worst_of_plain": min(case["of_plain"] for case in cases),
        "cases": cases,
    }
    failures = (*figures.unequal(different), *figures.short_of(cases, _name, OF_BEST, OF_PLAIN))
    return Result("sweep", options.recorded() | {"block_size": block}, measured, failures)


def _work(name: str, mixed: Work, options: SweepOptions, pair: Pair) -> Work:
    """The requests of a set, and the drafter that drafts for them."""
    if name == "useless":
        return replace(mixed, drafter=EchoDrafter(mixed.drafter))
    return _easy(mixed, options, pair) if name == "easy" else mixed


def _easy(mixed: Work, options: SweepOptions, pair: Pair) -> Work:
    """As many requests as ``mixed`` has, of the kinds that commit most per round."""
    arm = make_arm(pair, mixed, "easy", mixed.config(4, mixed.drafter.block_size), mixed.drafter)
    (run,) = measure([arm], 0)
    grouped = figures.by_kind(run.answers, mixed.kinds)
    taus = {kind: figures.both_rounds(own)["tokens_per_round"] for kind, own in grouped.items()}
    easy = sorted(taus, key=lambda kind: -taus[kind])[:_EASY]
    count = len(mixed.requests)
    more = options.model_copy(update={"prompts": count * max(1, len(taus) // _EASY + 1)})
    many = make_work(more, pair)
    kept = [one for one in many.requests if many.kinds[one.id] in easy][:count]
    return replace(many, requests=tuple(kept))


def _case(pair: Pair, work: Work, name: str, batch: int, repeats: int) -> dict[str, Any]:
    """One set at one batch size: every arm once untimed, then in turns."""

    def arm(name: str, block: int, drafter: DraftAdapter | None, **changes: bool) -> Arm:
        return make_arm(pair, work, name, work.config(batch, block, **changes), drafter)

    block, drafter = work.drafter.block_size, work.drafter
    plain = arm("plain", 1, None)
    fixed = [arm(f"block {width}", width, drafter) for width in widths_to(block)]
    auto = arm("auto", block, drafter, adaptive=True)
    arms = [plain, *fixed, auto]
    reference = figures.tokens_of(measure(arms, repeats)[0])
    best = max((plain, *fixed), key=lambda one: _ratio(one, plain))
    entries = [
        {
            "name": one.name,
            "tokens_per_second": middle(one.step_rates),
            "repeats": one.step_rates,
            "of_plain": _ratio(one, plain),
            **figures.both_rounds(one.answers),
            "different_answers": one.different(reference),
        }
        for one in arms
    ]
    return {
        "set": name,
        "batch": batch,
        "arms": entries,
        "different_answers": sum(one.different(reference) for one in arms),
        "round_costs": [
            {"rows": cost.rows, "width": cost.width, "milliseconds": 1e3 * cost.seconds}
            for cost in auto.costs
        ],
        "best": best.name,
        "of_best": _ratio(auto, best),
        "of_plain": _ratio(auto, plain),
    }


def _ratio(arm: Arm, other: Arm) -> float:
    return middle([one / two for one, two in zip(arm.step_rates, other.step_rates, strict=True)])


def _name(case: Mapping[str, Any]) -> str:
    return f"{case['set']} prompts, batch {case['batch']}"


def tables(result: Result) -> list[Table]:
    """Speeds of all arms, and what the engine's choice reaches."""
    speeds = "prompts name tokens_per_second of_plain tokens_per_round tokens_per_round_pooled "
    cases = result.measured["cases"]
    return [
        table_of("Decoding", _arms(cases), speeds + "different_answers"),
        table_of("The engine's choice of blocks", cases, "set batch best of_best of_plain"),
    ]


def _arms(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        arm | {"prompts": f"{case['set']}, {case['batch']}"}
        for case in cases
        for arm in case["arms"]
    ]


def plot(result: Result) -> Figure:
    """Speed over plain decoding by arm, one line per set and batch."""
    arms = _arms(result.measured["cases"])
    title = "decoding, times plain"
    return picture(lines(title, arms, "name", "of_plain", "prompts", limit=1.0), width=9)
