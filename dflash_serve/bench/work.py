"""What ways to decode are measured with: requests of any source, and simulated drafts."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.bench.options import DecodeOptions, PairOptions
from dflash_serve.bench.pair import Pair
from dflash_serve.bench.simulated import (
    SimulatedDrafter,
    expected_tokens,
    seeded_hits,
    solve_probability,
)
from dflash_serve.bench.workloads import HELD_OUT, Prompt, encode, pick, synthetic
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
    def typical_length(self) -> int:
        """Tokens in the cache half-way through a mean request."""
        prompts = sum(len(request.prompt) for request in self.requests) // len(self.requests)
        return prompts + self.requests[0].max_tokens // 2

    def config(self, batch: int, block: int, **changes: Any) -> EngineConfig:
        """Of an engine that holds all requests, ``batch`` of them in its rows."""
        longest = longest_of(self.requests) + block
        return EngineConfig(batch, len(self.requests), longest, block_size=block, **changes)


def longest_of(requests: Sequence[EngineRequest]) -> int:
    """Tokens of the longest request with its answer."""
    return max(len(request.prompt) + request.max_tokens for request in requests)


def make_work(options: PairOptions, pair: Pair, temperature: float = 0.0) -> Work:
    """The requests that ``options`` describe, for a pair with a drafter."""
    assert pair.drafter is not None
    prompts = make_prompts(options, pair, options.prompts or 24)
    return _work(options, prompts, pair.drafter, temperature=temperature)


def make_prompts(options: PairOptions, pair: Pair, count: int) -> list[Prompt]:
    """Held-out or given prompts by the target's template; random ids for random weights."""
    path, directory = options.prompt_file, pair.directory
    if path is None and directory is not None and (directory / "tokenizer.json").exists():
        path = HELD_OUT if HELD_OUT.exists() else None
    if directory is None or path is None:
        return synthetic(count, options.prompt_length, pair.target.vocab_size, options.seed)
    return encode(pick(read_chats(path), count, options.seed), directory)


def simulated_work(options: DecodeOptions, pair: Pair) -> Work:
    """Requests that continue one greedy sequence at different places, and its simulated drafter."""
    assert pair.drafter is not None
    block = options.blocks[0]
    probability = options.acceptance
    if probability is None:
        probability = solve_probability(options.tau or 1.0, block)
    count = options.prompts or max(_SEGMENTS, *options.batches)
    start = synthetic(1, options.prompt_length, pair.target.vocab_size, options.seed)[0].tokens
    drafted = min(count, _SEGMENTS) * options.max_tokens
    plain = decode_plainly(pair.target, [EngineRequest("oracle", start, drafted)])
    oracle = start + tuple(plain.answers["oracle"].tokens)
    ends = [len(start) + number % _SEGMENTS * options.max_tokens for number in range(count)]
    prompts = [Prompt("simulated", oracle[:end], frozenset()) for end in ends]
    hits = seeded_hits(probability, max(options.batches), len(oracle) - len(start), options.seed)
    simulation = {
        "acceptance": probability,
        "expected_tokens_per_round": expected_tokens(probability, block),
    }
    drafter = SimulatedDrafter(pair.drafter, oracle, hits, len(start))
    return _work(options, prompts, drafter, simulation)


def decode_plainly(target: TargetAdapter, requests: Sequence[EngineRequest], batch: int = 1) -> Run:
    """What plain decoding makes of requests, ``batch`` at a time."""
    config = EngineConfig(batch, len(requests), longest_of(requests))
    with closing(DeviceRunner(target, None, 1)) as runner:  # its traces go on this thread
        return run_all(runner, config, requests)


def _work(
    options: PairOptions,
    prompts: Sequence[Prompt],
    drafter: DraftAdapter,
    simulation: dict[str, Any] | None = None,
    temperature: float = 0.0,
) -> Work:
    def sampling(number: int) -> SamplingParams:
        return SamplingParams(temperature=temperature, seed=options.seed + number)

    requests = requests_of(prompts, options.max_tokens, sampling)
    kinds = {request.id: prompt.kind for request, prompt in zip(requests, prompts, strict=True)}
    return Work(requests, kinds, drafter, simulation)


def requests_of(
    prompts: Sequence[Prompt],
    max_tokens: int,
    sampling: Callable[[int], SamplingParams] = lambda number: SamplingParams(),
) -> tuple[EngineRequest, ...]:
    """A request for each prompt, called by its number; greedy without ``sampling``."""
    return tuple(
        EngineRequest(str(number), prompt.tokens, max_tokens, sampling(number), prompt.stop_tokens)
        for number, prompt in enumerate(prompts)
    )
