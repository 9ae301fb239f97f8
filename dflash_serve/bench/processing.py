"""``dflash-bench processing``: what sampling, bias, penalties, log-probabilities, grammars cost.

Rounds with each option in turns with rounds without, at a large vocabulary: medians of the ratios.
Structured output of the demo pair in turns with the same requests without a schema, each way with a
runner of its own and one untimed run: ratios of the median tokens per second in steps that decode
only, and beside seven rows without a schema the median of the ratios of round times.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.arms import Arm, measure
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.figures import both_rounds
from dflash_serve.bench.options import ProcessingOptions
from dflash_serve.bench.pair import Pair, PairChoice, load_pair
from dflash_serve.bench.random_targets import RANDOM_TARGETS
from dflash_serve.bench.report import Columns, bars, picture, table_of
from dflash_serve.bench.turns import timed
from dflash_serve.bench.work import requests_of
from dflash_serve.bench.workloads import HELD_OUT, encode, pick
from dflash_serve.compose.directories import DEMO
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.grammar import Grammar, GrammarCompiler, from_json_schema
from dflash_serve.engine.plan import DecodeRow, OpenedRow, PrefillRow, RowSpec, StepPlan
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest, LogitRules, SamplingParams
from dflash_serve.measure.driver import Run
from dflash_serve.measure.figures import middle, ratio
from dflash_serve.measure.prompts import read_chats
from dflash_serve.measure.results import Result

_BLOCK, _HISTORY, _BIASED, _TOP = 8, 256, 100, 20
_STOPS = frozenset([0])
_PENALTIES = LogitRules(presence=0.5, frequency=0.5, repetition=1.1)
_BIAS = LogitRules(bias=tuple((7 * at, 1.0) for at in range(_BIASED)))
_ALL = replace(_PENALTIES, bias=_BIAS.bias, min_tokens=5)
_GREEDY = SamplingParams()
_USUAL = SamplingParams(temperature=0.7, top_p=0.8, top_k=20)


@dataclass(frozen=True, slots=True)
class RowOption:
    """What every row of a measured round asks for."""

    spec: RowSpec | None = None
    sampling: SamplingParams = _GREEDY


OPTIONS: Mapping[str, RowOption] = {
    "nothing": RowOption(),
    "temperature": RowOption(sampling=SamplingParams(temperature=0.7)),
    "temperature, top-p": RowOption(sampling=SamplingParams(temperature=0.7, top_p=0.8)),
    "temperature, top-p, top-k": RowOption(sampling=_USUAL),
    f"logit_bias, {_BIASED} tokens": RowOption(RowSpec(_BIAS, _STOPS)),
    f"penalties, {_HISTORY} tokens before": RowOption(RowSpec(_PENALTIES, _STOPS)),
    f"logprobs, top {_TOP}": RowOption(RowSpec(LogitRules(), _STOPS, logprobs=_TOP)),
    "all of them": RowOption(RowSpec(_ALL, _STOPS, logprobs=_TOP), _USUAL),
}
RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "city": {"type": "string"},
        "job": {"type": "string"},
    },
    "required": ["name"],
    "additionalProperties": False,
}
"""The record that the demo target writes when it is asked for JSON."""


def run(options: ProcessingOptions) -> Result:
    """All measurements; each ratio is of medians of turns within this run."""
    if options.random_target not in RANDOM_TARGETS:
        raise BenchError(f"--random-target must be one of {', '.join(RANDOM_TARGETS)}")
    demo = load_pair(PairChoice())
    measured = {
        "rounds": _rounds(options),
        "structured": [_structured(demo, options, rows) for rows in options.rows],
        "neighbours": _neighbours(demo, options),
        "first_mask": _first_mask(demo.target.vocab_size),
    }
    assert demo.drafter is not None
    blocks = {"block_size": _BLOCK, "demo_block_size": demo.drafter.runtime_block_size}
    return Result("processing", options.recorded() | blocks, measured)


def _rounds(options: ProcessingOptions) -> list[dict[str, Any]]:
    """Milliseconds of a round by option, at each number of rows."""
    pair = load_pair(
        PairChoice(random_target=options.random_target, block_size=_BLOCK, vocab=options.vocab)
    )
    entries = []
    for rows in options.rows:
        with ExitStack() as stack:
            calls = {name: _round_call(stack, pair, one, rows) for name, one in OPTIONS.items()}
            times = timed(list(calls.values()), options.repeats)
        for name, seconds in zip(calls, times, strict=True):
            entries.append(
                {
                    "rows": rows,
                    "option": name,
                    "round_ms": 1e3 * middle(seconds),
                    "ratio": middle([s / base for s, base in zip(seconds, times[0], strict=True)]),
                }
            )
    return entries


def _round_call(stack: ExitStack, pair: Pair, option: RowOption, rows: int) -> Callable[[], object]:
    """One round of ``rows`` rows that hold ``_HISTORY`` tokens each."""
    runner = stack.enter_context(closing(DeviceRunner(pair.target, pair.drafter, _BLOCK)))
    rng = np.random.default_rng(0)
    spec, sampling = option.spec, option.sampling
    opened = () if spec is None else tuple(OpenedRow(row, spec) for row in range(rows))
    for row in range(rows):
        tokens = tuple(rng.integers(1, pair.target.vocab_size, _HISTORY).tolist())
        prefill = (PrefillRow(row, 0, tokens, True, sampling),)
        runner.run(StepPlan(opened=opened if row == 0 else (), prefill=prefill))
    decode = tuple(DecodeRow(row, _HISTORY, 5, _BLOCK, sampling) for row in range(rows))
    return lambda: runner.run(StepPlan(decode=decode))


def _structured(pair: Pair, options: ProcessingOptions, rows: int) -> dict[str, Any]:
    """The demo's JSON prompts with a schema against the same requests without."""
    plain = _requests(pair, options, options.prompts, "json")
    guided = [replace(request, grammar=_grammar(pair, RECORD)) for request in plain]
    arms = [_arm(pair, rows, "plain", plain), _arm(pair, rows, "schema", guided)]
    measure(arms, options.repeats)
    rates = {arm.name: middle(arm.step_rates) for arm in arms}
    return {
        "rows": rows,
        "tokens_per_second": rates,
        "ratio": ratio(rates["schema"], rates["plain"]),
        "rounds": {arm.name: both_rounds(arm.runs[0].answers.values()) for arm in arms},
        "round_ms": {arm.name: 1e3 * _round_seconds(arm.runs) for arm in arms},
    }


def _neighbours(pair: Pair, options: ProcessingOptions) -> dict[str, Any]:
    """Seven rows beside one that has a schema, and beside the same one without.

    For some rounds of them all, however few tokens are asked for.
    """
    assert pair.drafter is not None
    tokens = max(options.max_tokens // 2, 4 * pair.drafter.runtime_block_size)
    *seven, one = (
        replace(request, id=str(at), stop_tokens=frozenset(), max_tokens=tokens)
        for at, request in enumerate(
            [
                *_requests(pair, options, 7, "story", "code"),
                *_requests(pair, options, 1, "json"),
            ]
        )
    )
    guided = replace(one, grammar=_grammar(pair, {"type": "string", "minLength": 500}))
    arms = [_arm(pair, 8, "plain", [*seven, one]), _arm(pair, 8, "schema", [*seven, guided])]
    measure(arms, options.repeats)
    seconds = {arm.name: [_round_seconds([run], 8) for run in arm.runs] for arm in arms}
    ratios = [s / p for s, p in zip(seconds["schema"], seconds["plain"], strict=True)]
    return {
        "round_ms": {name: 1e3 * middle(taken) for name, taken in seconds.items()},
        "ratio": middle(ratios),
    }


def _first_mask(vocab_size: int) -> dict[str, Any]:
    """Milliseconds from a schema of 100 fields to its first mask, over ten new schemas."""
    compiler = _compiler(vocab_size)
    compiler.compile(from_json_schema(True))  # reads the vocabulary, once per process
    times = []
    for version in range(10):
        fields = {
            f"field_{at}_{version}": {"type": ["string", "integer"][at % 2]} for at in range(100)
        }
        schema = {"type": "object", "properties": fields, "required": list(fields)}
        started = time.perf_counter()
        compiler.compile(from_json_schema(schema)).start().compute_bitmask()
        times.append(1e3 * (time.perf_counter() - started))
    return {"median_ms": middle(times), "worst_ms": max(times)}


def _arm(pair: Pair, rows: int, name: str, requests: Sequence[EngineRequest]) -> Arm:
    assert pair.drafter is not None
    block = pair.drafter.runtime_block_size
    runner = DeviceRunner(pair.target, pair.drafter, block)
    config = EngineConfig(rows, 1024, pair.target.max_context, block_size=block)
    return Arm(name, runner, config, requests)


def _requests(
    pair: Pair, options: ProcessingOptions, count: int, *kinds: str
) -> tuple[EngineRequest, ...]:
    """Of the demo's held-out prompts of those kinds."""
    assert pair.directory is not None
    known = [chat for chat in read_chats(HELD_OUT) if chat.kind in kinds]
    prompts = encode(pick(known, count, options.seed), pair.directory)
    return requests_of(prompts, options.max_tokens)


def _grammar(pair: Pair, schema: Any) -> Grammar:
    return _compiler(pair.target.vocab_size).compile(from_json_schema(schema))


def _compiler(vocab_size: int) -> GrammarCompiler:
    text = (DEMO / "target" / "tokenizer.json").read_text(encoding="utf-8")
    return GrammarCompiler(text, vocab_size, [0, 2])


def _round_seconds(runs: Sequence[Run], least: int = 1) -> float:
    """Of rounds with at least so many rows."""
    steps = [step for run in runs for step in run.steps if not step.prefill_rows]
    return middle([step.total for step in steps if step.decode_rows >= least])


def tables(result: Result) -> list[Table]:
    found = result.measured
    arms = [
        entry | {"arm": arm} | entry["rounds"][arm]
        for entry in found["structured"]
        for arm in ("plain", "schema")
    ]
    rates: Columns = (
        *("rows", "arm"),
        ("tokens/s", lambda one: one["tokens_per_second"][one["arm"]]),
        *("tokens_per_round", "tokens_per_round_pooled"),
    )
    return [
        table_of(
            f"Rounds, vocabulary {result.settings['vocab']}",
            found["rounds"],
            "rows option round_ms ratio",
        ),
        table_of("Demo pair, JSON prompts", arms, rates),
        table_of(
            "A round of 8 rows, one of them with a schema",
            [found["neighbours"]],
            "round_ms.plain round_ms.schema ratio",
        ),
        table_of(
            "A schema of 100 fields to its first mask", [found["first_mask"]], "median_ms worst_ms"
        ),
    ]


def plot(result: Result) -> Figure:
    """Ratios of rounds with each option to rounds without, a bar for each number of rows."""
    found: dict[str, dict[str, Any]] = {}
    for entry in result.measured["rounds"]:
        option = found.setdefault(entry["option"], {"option": entry["option"]})
        option[f"{entry['rows']} rows"] = entry["ratio"]
    entries = list(found.values())
    title = "a round, times one without"
    return picture(bars(title, entries, "option", [*entries[0]][1:], limit=1.1), width=8)
