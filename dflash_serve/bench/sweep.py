"""``dflash-bench sweep``: the engine's own choice of blocks against every fixed one, and plain.

All arms run the same requests in turns in one process. A ratio is the median over repeats of the
ratio within a repeat; each run begins with no knowledge of the drafts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.adapters.exactness import exact_path
from dflash_serve.bench import figures
from dflash_serve.bench.arms import Arm, make_arm, measure
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import DecodeOptions, SweepOptions
from dflash_serve.bench.pair import Pair, load_pair
from dflash_serve.bench.report import canvas, table
from dflash_serve.bench.simulated import EchoDrafter
from dflash_serve.bench.work import Work, make_work
from dflash_serve.engine.block_policy import widths_to
from dflash_serve.measure.figures import middle
from dflash_serve.measure.results import Result

OF_BEST, OF_PLAIN = 0.97, 0.98
"""What the engine's choice must reach of the best fixed block, and of plain decoding."""
SETS = ("easy", "mixed", "useless")
"""Prompts of the kinds with the most tokens per round; all; all, with drafts that are wrong."""
_EASY = 4
"""Kinds that are called easy."""


def run(options: SweepOptions) -> Result:
    """All sets at all batch sizes."""
    pair = load_pair(options.pair)
    if pair.drafter is None:
        raise BenchError("there is no drafter to measure; give --drafter or --random-target")
    block = pair.drafter.block_size
    sets = _Sets(options, pair).works()
    cases = [
        _Case(pair, work, block, batch).measured(name, options.repeats)
        for name, work in sets.items()
        for batch in options.batches
    ]
    different = sum(case["different_answers"] for case in cases)
    failures = [f"{different} answers differ from plain decoding"] if different else []
    measured = {
        "pair": pair.describe(),
        "exact_path": exact_path(),
        "different_answers": different,
        "worst_of_best": min(case["of_best"] for case in cases),
        "worst_of_plain": min(case["of_plain"] for case in cases),
        "cases": cases,
    }
    failures = failures if exact_path() else []
    return Result(
        "sweep", options.recorded() | {"block_size": block}, measured, (*failures, *_misses(cases))
    )


class _Sets:
    """The requests of each set, and the drafter that drafts for them."""

    def __init__(self, options: SweepOptions, pair: Pair) -> None:
        self._options = options
        self._pair = pair

    def works(self) -> dict[str, Work]:
        mixed = self._work(self._options.prompts)
        found: dict[str, Work] = {}
        for name in self._options.sets:
            if name == "easy":
                found[name] = self._easy(mixed)
            else:
                found[name] = mixed if name == "mixed" else self._useless(mixed)
        return found

    def _work(self, prompts: int) -> Work:
        options = self._options
        decode = DecodeOptions(
            prompt_file=options.prompt_file,
            prompts=prompts,
            max_tokens=options.max_tokens,
            seed=options.seed,
        )
        return make_work(decode, self._pair)

    def _easy(self, mixed: Work) -> Work:
        """As many requests as ``mixed`` has, of the kinds that commit most per round."""
        assert self._pair.drafter is not None
        block = self._pair.drafter.block_size
        arm = make_arm(self._pair, mixed, "easy", mixed.config(4, block), mixed.drafter)
        (run,) = measure([arm], 0)
        grouped = figures.by_kind(run.answers, mixed.kinds)
        taus = {
            kind: figures.both_rounds(answers)["tokens_per_round"]
            for kind, answers in grouped.items()
        }
        easy = sorted(taus, key=lambda kind: -taus[kind])[:_EASY]
        many = self._work(len(mixed.requests) * max(1, len(taus) // _EASY + 1))
        kept = [one for one in many.requests if many.kinds[one.id] in easy]
        kept = kept[: len(mixed.requests)]
        kinds = {one.id: many.kinds[one.id] for one in kept}
        return Work(tuple(kept), kinds, mixed.drafter)

    def _useless(self, mixed: Work) -> Work:
        return Work(mixed.requests, mixed.kinds, EchoDrafter(mixed.drafter))


class _Case:
    """One set at one batch size. Owner of its arms."""

    def __init__(self, pair: Pair, work: Work, block: int, batch: int) -> None:
        self._pair = pair
        self._work = work
        self._batch = batch
        self._plain = self._arm("plain", 1, drafts=False)
        self._fixed = [self._arm(f"block {width}", width) for width in widths_to(block)]
        self._auto = self._arm("auto", block, adaptive=True)

    def measured(self, name: str, repeats: int) -> dict[str, Any]:
        """Every arm once untimed, then in turns."""
        arms = [self._plain, *self._fixed, self._auto]
        reference, *_ = measure(arms, repeats)
        return self._entry(name, arms, figures.tokens_of(reference))

    def _entry(
        self, name: str, arms: Sequence[Arm], reference: Mapping[str, Sequence[int]]
    ) -> dict[str, Any]:
        different = {arm.name: arm.different(reference) for arm in arms}
        best = max((self._plain, *self._fixed), key=lambda arm: _ratio(arm, self._plain))
        return {
            "set": name,
            "batch": self._batch,
            "arms": [
                {
                    "name": arm.name,
                    "tokens_per_second": middle(arm.step_rates),
                    "repeats": arm.step_rates,
                    "of_plain": _ratio(arm, self._plain),
                    **figures.both_rounds(arm.answers),
                    "different_answers": different[arm.name],
                }
                for arm in arms
            ],
            "different_answers": sum(different.values()),
            "round_costs": [
                {"rows": cost.rows, "width": cost.width, "milliseconds": 1e3 * cost.seconds}
                for cost in self._auto.costs
            ],
            "best": best.name,
            "of_best": _ratio(self._auto, best),
            "of_plain": _ratio(self._auto, self._plain),
        }

    def _arm(self, name: str, block: int, *, drafts: bool = True, adaptive: bool = False) -> Arm:
        drafter = self._work.drafter if drafts else None
        config = self._work.config(self._batch, block, adaptive=adaptive)
        return make_arm(self._pair, self._work, name, config, drafter)


def _ratio(arm: Arm, other: Arm) -> float:
    return middle([one / two for one, two in zip(arm.step_rates, other.step_rates, strict=True)])


def _misses(cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for case in cases:
        name = f"{case['set']} prompts, batch {case['batch']}"
        if case["of_best"] < OF_BEST:
            yield f"{name}: auto is {case['of_best']:.3f} of {case['best']}"
        if case["of_plain"] < OF_PLAIN:
            yield f"{name}: auto is {case['of_plain']:.3f} of plain decoding"


def tables(result: Result) -> list[Table]:
    """Speeds of all arms, and what the engine's choice reaches."""
    cases = result.measured["cases"]
    names = [arm["name"] for arm in cases[0]["arms"]]
    columns = ("prompts, batch", "plain tok/s", *names[1:], "auto / best fixed", "best")
    rows = []
    for case in cases:
        times = [f"{arm['of_plain']:.2f}x" for arm in case["arms"][1:]]
        rate = case["arms"][0]["tokens_per_second"]
        name = f"{case['set']}, {case['batch']}"
        rows.append((name, rate, *times, f"{case['of_best']:.3f}", case["best"]))
    return [table("The engine's choice of blocks against fixed ones", columns, rows)]


def plot(result: Result) -> Figure:
    """Speed over plain decoding by arm, one line per set and batch."""
    figure, axes = canvas(9, 4)
    for case in result.measured["cases"]:
        arms = case["arms"]
        label = f"{case['set']}, {case['batch']}"
        axes.plot(
            [arm["name"] for arm in arms], [arm["of_plain"] for arm in arms], "o-", label=label
        )
    axes.axhline(1.0, color="grey", linestyle="--")
    axes.set(title="decoding, times plain", ylim=(0, None))
    axes.legend(fontsize=8)
    return figure
