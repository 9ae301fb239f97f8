"""``dflash-bench sweep``: the engine's own choice of blocks against every fixed one, and plain.

All arms run the same requests in turns in one process. A ratio is the median over repeats of the
ratio within a repeat; each run begins with no knowledge of the drafts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dflash_serve.adapters.exactness import exact_path
from dflash_serve.bench import figures
from dflash_serve.bench.drive import Run, run_all
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.pair import Pair, PairChoice, load_pair
from dflash_serve.bench.report import Result, middle
from dflash_serve.bench.simulated import EchoDrafter
from dflash_serve.bench.textsink import TextSink
from dflash_serve.bench.work import DecodeOptions, Work, make_work
from dflash_serve.engine.block_policy import widths_to
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.warm_up import measured_costs

OF_BEST, OF_PLAIN = 0.97, 0.98
"""What the engine's choice must reach of the best fixed block, and of plain decoding."""
SETS = ("easy", "mixed", "useless")
"""Prompts of the kinds with the most tokens per round; all; all, with drafts that are wrong."""
_EASY = 4
"""Kinds that are called easy."""


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """What to measure. ``prompts``: requests per run and set. ``block_size`` 0: as trained."""

    pair: PairChoice = field(default_factory=PairChoice)
    prompt_file: Path | None = None
    prompts: int = 24
    batches: tuple[int, ...] = (1, 4, 8)
    sets: tuple[str, ...] = SETS
    block_size: int = 0
    max_tokens: int = 128
    repeats: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.sets if name not in SETS]
        if unknown:
            raise BenchError(f"--sets names {unknown[0]}, but must be of {', '.join(SETS)}")


@dataclass(slots=True)
class _Arm:
    """One way to choose blocks. Owner of its runner, and of what its runs gave."""

    name: str
    runner: DeviceRunner
    config: EngineConfig
    costs: tuple[CostPoint, ...] = ()
    rates: list[float] = field(default_factory=list)
    tokens_per_round: float = 1.0
    different: int = 0


def run_sweep(options: SweepOptions) -> Result:
    """All sets at all batch sizes."""
    pair = load_pair(options.pair)
    if pair.drafter is None:
        raise BenchError("there is no drafter to measure; give --drafter or --random-target")
    block = options.block_size or pair.drafter.block_size
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
    return Result("sweep", _settings(options, block), measured, (*failures, *_misses(cases)))


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
            pair=options.pair,
            prompt_file=options.prompt_file,
            prompts=prompts,
            max_tokens=options.max_tokens,
            seed=options.seed,
        )
        return make_work(decode, self._pair)

    def _easy(self, mixed: Work) -> Work:
        """As many requests as ``mixed`` has, of the kinds that commit most per round."""
        assert self._pair.drafter is not None
        runner = DeviceRunner(self._pair.target, mixed.drafter, self._pair.drafter.block_size)
        run = _run(_Arm("", runner, _config(mixed, 4, self._pair.drafter.block_size)), mixed)
        runner.close()
        grouped = figures.by_kind(run.answers, mixed.kinds)
        taus = {kind: figures.tokens_per_round(answers) for kind, answers in grouped.items()}
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
        """Every arm once untimed, then in turns, the order reversed each repeat."""
        arms = [self._plain, *self._fixed, self._auto]
        reference = figures.tokens_of(_run(self._plain, self._work, self._pair))
        for arm in arms[1:]:
            _run(arm, self._work, self._pair)
        for repeat in range(repeats):
            for arm in arms[:: -1 if repeat % 2 else 1]:
                run = _run(arm, self._work, self._pair)
                arm.rates.append(run.decode_rate)
                arm.tokens_per_round = figures.tokens_per_round(run.answers.values())
                arm.different += len(figures.differing(run.answers, reference))
        for arm in arms:
            arm.runner.close()
        return self._entry(name, arms)

    def _entry(self, name: str, arms: Sequence[_Arm]) -> dict[str, Any]:
        best = max((self._plain, *self._fixed), key=lambda arm: _ratio(arm, self._plain))
        return {
            "set": name,
            "batch": self._batch,
            "arms": [
                {
                    "name": arm.name,
                    "tokens_per_second": middle(arm.rates),
                    "repeats": arm.rates,
                    "of_plain": _ratio(arm, self._plain),
                    "tokens_per_round": arm.tokens_per_round,
                    "different_answers": arm.different,
                }
                for arm in arms
            ],
            "different_answers": sum(arm.different for arm in arms),
            "round_costs": [
                {"rows": cost.rows, "width": cost.width, "milliseconds": 1e3 * cost.seconds}
                for cost in self._auto.costs
            ],
            "best": best.name,
            "of_best": _ratio(self._auto, best),
            "of_plain": _ratio(self._auto, self._plain),
        }

    def _arm(self, name: str, block: int, *, drafts: bool = True, adaptive: bool = False) -> _Arm:
        drafter = self._work.drafter if drafts else None
        runner = DeviceRunner(self._pair.target, drafter, block)
        config = _config(self._work, self._batch, block, adaptive=adaptive)
        costs = measured_costs(runner, config, runner.bytes_for) if adaptive else ()
        return _Arm(name, runner, config, costs)


def _ratio(arm: _Arm, other: _Arm) -> float:
    return middle([one / two for one, two in zip(arm.rates, other.rates, strict=True)])


def _config(work: Work, batch: int, block: int, *, adaptive: bool = False) -> EngineConfig:
    return EngineConfig(
        max_batch=batch,
        max_queue=len(work.requests),
        max_context=work.longest + block,
        block_size=block,
        adaptive=adaptive,
    )


def _run(arm: _Arm, work: Work, pair: Pair | None = None) -> Run:
    sink = None if pair is None else TextSink.load(pair.directory)
    return run_all(arm.runner, arm.config, work.requests, sink, arm.costs)


def _misses(cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for case in cases:
        name = f"{case['set']} prompts, batch {case['batch']}"
        if case["of_best"] < OF_BEST:
            yield f"{name}: auto is {case['of_best']:.3f} of {case['best']}"
        if case["of_plain"] < OF_PLAIN:
            yield f"{name}: auto is {case['of_plain']:.3f} of plain decoding"


def _settings(options: SweepOptions, block: int) -> dict[str, Any]:
    return {
        "target": options.pair.random_target or options.pair.target or "demo",
        "drafter": options.pair.drafter,
        "prompts": str(options.prompt_file) if options.prompt_file else "default",
        "requests": options.prompts,
        "batches": list(options.batches),
        "sets": list(options.sets),
        "block_size": block,
        "max_tokens": options.max_tokens,
        "repeats": options.repeats,
        "seed": options.seed,
    }
