"""What `dflash-bench decode` measures with: its options, its requests, and simulated drafts."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.bench.options import DecodeOptions, ExactOptions, RecordOptions
from dflash_serve.bench.pair import Pair
from dflash_serve.bench.simulated import (
    SimulatedDrafter,
    expected_tokens,
    seeded_hits,
    solve_probability,
)
from dflash_serve.bench.workloads import Prompt, encode, pick, synthetic
from dflash_serve.compose.directories import DEMO
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest, SamplingParams
from dflash_serve.measure.driver import Run, run_all
from dflash_serve.measure.prompts import read_chats

_SEGMENTS = 4
"""Different stretches of one greedy sequence that a simulated run's requests continue."""


@dataclass(frozen=True, slots=True)
class Work:
    """The requests of every arm, the drafter they are drafted by, and what was simulated."""

    requests: tuple[EngineRequest, ...]
    kinds: Mapping[str, str]
    drafter: DraftAdapter
    simulation: dict[str, Any] | None = None

    @property
    def longest(self) -> int:
        return max(len(request.prompt) + request.max_tokens for request in self.requests)

    @property
    def typical_length(self) -> int:
        """Tokens in the cache half-way through a mean request."""
        prompts = sum(len(request.prompt) for request in self.requests) // len(self.requests)
        return prompts + self.requests[0].max_tokens // 2

    def config(self, batch: int, block: int, **changes: Any) -> EngineConfig:
        """Of an engine that holds all requests, ``batch`` of them in its rows."""
        longest = self.longest + block
        waiting = len(self.requests)
        return EngineConfig(batch, waiting, longest, block_size=block, **changes)


def make_work(options: DecodeOptions, pair: Pair) -> Work:
    """The requests that ``options`` describe, for a pair with a drafter."""
    return _simulated_work(options, pair) if options.simulated else _prompted_work(options, pair)


def _prompted_work(options: DecodeOptions, pair: Pair) -> Work:
    assert pair.drafter is not None
    count = options.prompts or 24
    return _work(options, make_prompts(options, pair, count), pair.drafter)


def make_prompts(
    options: DecodeOptions | ExactOptions | RecordOptions, pair: Pair, count: int
) -> list[Prompt]:
    """Held-out or given prompts by the target's template; random ids for random weights."""
    path = options.prompt_file
    if pair.directory is None or (path is None and not _has_demo_prompts(pair)):
        return synthetic(count, options.prompt_length, pair.target.vocab_size, options.seed)
    chats = pick(read_chats(path or DEMO / "heldout.jsonl"), count, options.seed)
    return encode(chats, pair.directory)


def _has_demo_prompts(pair: Pair) -> bool:
    directory = pair.directory
    return (
        directory is not None
        and (DEMO / "heldout.jsonl").exists()
        and (directory / "tokenizer.json").exists()
    )


def _simulated_work(options: DecodeOptions, pair: Pair) -> Work:
    """Requests that continue one greedy sequence at different places, and its simulated drafter."""
    assert pair.drafter is not None
    block = options.blocks[0]
    probability = options.acceptance
    if probability is None:
        probability = solve_probability(options.tau or 1.0, block)
    count = options.prompts or max(_SEGMENTS, *options.batches)
    start = synthetic(1, options.prompt_length, pair.target.vocab_size, options.seed)[0].tokens
    oracle = _greedy(pair, start, min(count, _SEGMENTS) * options.max_tokens)
    prompts = []
    for number in range(count):
        end = len(start) + number % _SEGMENTS * options.max_tokens
        prompts.append(Prompt("simulated", oracle[:end], frozenset()))
    drafted = len(oracle) - len(start)
    hits = seeded_hits(probability, max(options.batches), drafted, options.seed)
    simulation = {
        "acceptance": probability,
        "expected_tokens_per_round": expected_tokens(probability, block),
    }
    drafter = SimulatedDrafter(pair.drafter, oracle, hits, len(start))
    return _work(options, prompts, drafter, simulation)


def _greedy(pair: Pair, prompt: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """``prompt`` and what plain decoding makes of it."""
    run = decode_plainly(pair.target, [EngineRequest("oracle", prompt, tokens)])
    return prompt + tuple(run.answers["oracle"].tokens)


def decode_plainly(target: TargetAdapter, requests: Sequence[EngineRequest], batch: int = 1) -> Run:
    """What plain decoding makes of requests, ``batch`` at a time."""
    longest = max(len(request.prompt) + request.max_tokens for request in requests)
    config = EngineConfig(batch, len(requests), longest)
    with closing(DeviceRunner(target, None, 1)) as runner:  # its traces go on this thread
        return run_all(runner, config, requests)


def _work(
    options: DecodeOptions,
    prompts: Sequence[Prompt],
    drafter: DraftAdapter,
    simulation: dict[str, Any] | None = None,
) -> Work:
    requests = tuple(
        EngineRequest(
            f"{number}",
            prompt.tokens,
            options.max_tokens,
            SamplingParams(temperature=options.temperature, seed=options.seed + number),
            prompt.stop_tokens,
        )
        for number, prompt in enumerate(prompts)
    )
    kinds = {request.id: prompt.kind for request, prompt in zip(requests, prompts, strict=True)}
    return Work(requests, kinds, drafter, simulation)
