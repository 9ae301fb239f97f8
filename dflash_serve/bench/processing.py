"""``dflash-bench processing``: what sampling, bias, penalties, log-probabilities, grammars cost.

Rounds of eight rows with each option against rounds without, at a large vocabulary; structured
output of the demo pair against the same requests without a schema, alone and beside neighbours.
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
from dflash_serve.bench.report import canvas, grouped_bars, table
from dflash_serve.bench.turns import timed
from dflash_serve.bench.workloads import encode, pick
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
from dflash_serve.measure.shapes import Chat

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
    return Result("processing", options.recorded() | {"block_size": _BLOCK}, measured)


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
    chats = [chat for chat in read_chats(DEMO / "heldout.jsonl") if chat.kind == "json"]
    plain = _requests(pair, pick(chats, options.prompts, options.seed))
    guided = [replace(request, grammar=_grammar(pair)) for request in plain]
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
    """Seven rows beside one that has a schema, and beside the same one without."""
    chats = read_chats(DEMO / "heldout.jsonl")
    others = [chat for chat in chats if chat.kind in ("story", "code")]
    seven = _requests(pair, pick(others, 7, options.seed))
    one = _requests(pair, pick([chat for chat in chats if chat.kind == "json"], 1, options.seed))[0]
    one = replace(one, id="one", stop_tokens=frozenset(), max_tokens=64)
    seven = [replace(request, stop_tokens=frozenset(), max_tokens=64) for request in seven]
    alone = replace(one, grammar=_grammar(pair, "endless"))
    arms = [
        _arm(pair, 8, name, [*seven, extra]) for name, extra in (("plain", one), ("schema", alone))
    ]
    measure(arms, options.repeats)
    seconds = {arm.name: [_round_seconds([run], 8) for run in arm.runs] for arm in arms}
    ratios = [s / p for s, p in zip(seconds["schema"], seconds["plain"], strict=True)]
    return {
        "round_ms": {name: 1e3 * middle(taken) for name, taken in seconds.items()},
        "ratio": middle(ratios),
    }


def _first_mask(vocab_size: int) -> dict[str, Any]:
    """Milliseconds from a schema of 100 fields to its first mask: the first one, and new ones."""
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
    runner = DeviceRunner(pair.target, pair.drafter, _BLOCK)
    config = EngineConfig(rows, 1024, pair.target.max_context, block_size=_BLOCK)
    return Arm(name, runner, config, requests)


def _requests(pair: Pair, chats: Sequence[Chat]) -> list[EngineRequest]:
    assert pair.directory is not None
    prompts = encode(chats, pair.directory)
    return [
        EngineRequest(str(at), prompt.tokens, 128, stop_tokens=prompt.stop_tokens)
        for at, prompt in enumerate(prompts)
    ]


def _grammar(pair: Pair, kind: str = "record") -> Grammar:
    schema: Any = RECORD if kind == "record" else {"type": "string", "minLength": 500}
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
    rounds = [(e["rows"], e["option"], e["round_ms"], e["ratio"]) for e in found["rounds"]]
    structured = [
        (
            entry["rows"],
            entry["tokens_per_second"]["plain"],
            entry["tokens_per_second"]["schema"],
            entry["ratio"],
            *(_both(entry["rounds"][arm]) for arm in ("plain", "schema")),
        )
        for entry in found["structured"]
    ]
    beside, mask = found["neighbours"], found["first_mask"]
    others = [
        ("round of 8 rows, one of them with a schema, ms", beside["round_ms"]["schema"]),
        ("the same without, ms", beside["round_ms"]["plain"]),
        ("ratio", beside["ratio"]),
        ("schema of 100 fields to its first mask, ms", mask["median_ms"]),
        ("worst, ms", mask["worst_ms"]),
    ]
    vocab = result.settings["vocab"]
    return [
        table(f"Rounds, vocabulary {vocab}", ("rows", "option", "ms", "ratio"), rounds),
        table(
            "Demo pair, JSON prompts",
            ("rows", "tokens/s", "with schema", "ratio", "tokens/round (pooled)", "with schema"),
            structured,
        ),
        table("Neighbours and compilation", ("what", "value"), others),
    ]


def plot(result: Result) -> Figure:
    """Ratios of rounds with each option to rounds without."""
    figure, axes = canvas(8, 4)
    entries = result.measured["rounds"]
    ratios: dict[str, list[float]] = {}
    for entry in entries:
        ratios.setdefault(f"{entry['rows']} rows", []).append(entry["ratio"])
    grouped_bars(axes, list(dict.fromkeys(entry["option"] for entry in entries)), ratios, flat=True)
    axes.axvline(1.1, color="grey", linestyle="--", linewidth=1)
    axes.set(title="Cost of processing a round", xlabel="times a round without", xlim=(0, None))
    return figure


def _both(rounds: Mapping[str, float]) -> str:
    return f"{rounds['tokens_per_round']:.2f} ({rounds['tokens_per_round_pooled']:.2f})"
