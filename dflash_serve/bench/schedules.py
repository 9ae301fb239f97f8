"""Random schedules through the engine's loop: what caches take after each step, by MLX's counter.

Tiny random pairs. Joins, leaves, aborts, prompts of all lengths and swaps of the drafter are drawn
from a seed, on the loop's thread, so that a seed gives the same steps again.
"""

import gc
import queue
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import mlx.core as mx

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.cache_spec import AttentionSpec, LayerSpec
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.pair import PairChoice, load_pair
from dflash_serve.engine.client import EngineState
from dflash_serve.engine.commands import (
    Abort,
    Add,
    Changed,
    Emitted,
    Event,
    Loaded,
    NewDrafter,
    Open,
    Stop,
    Swap,
    Swapped,
)
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.loop import EngineLoop
from dflash_serve.engine.plan import StepPlan, StepResult, nothing
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest, FinishReason, SamplingParams, TokenChunk

ALLOWED = 1.35
"""Times the rows' own needs that caches may take, beside a slack of `SLACK` tokens per row."""
SLACK = 64
BESIDE = 1 << 18
"""Bytes that are no rows': rotary tables of the last forwards, constants of traced graphs."""
_CONTEXTS = (256, 1024)
_DRAFTERS = ((1, 4), (2, 8))
"""Layers and block of the random drafters that are swapped in and out."""
_MOST_STEPS = 2000
_PATIENCE = 600.0
"""Seconds after which a schedule counts as hanging."""


class Watched(DeviceRunner):
    """A runner whose steps a schedule hears of. Owner of what it knows its rows to hold."""

    def __init__(self, schedule: "Schedule", target: TargetAdapter, new: NewDrafter) -> None:
        super().__init__(target, new.drafter, new.block_size)
        self._schedule = schedule
        self._new = new
        self._held: dict[int, int] = {}
        self._written: dict[int, int] = {}
        schedule.watch(self)

    def beside(self, drafter: DraftAdapter | None, block_size: int) -> "Watched":
        return type(self)(self._schedule, self._target, NewDrafter(drafter, block_size))

    def draft_with(self, drafter: DraftAdapter | None, block_size: int) -> None:
        super().draft_with(drafter, block_size)
        self._new = NewDrafter(drafter, block_size)

    def reset(self) -> None:
        super().reset()
        self._held.clear()

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        result = super().run(plan, meanwhile)
        for row in plan.closed:
            self._held.pop(row, None)
        self._written = {decode.row: decode.block for decode in plan.decode}
        for chunk in plan.prefill:
            self._held[chunk.row] = chunk.start + len(chunk.tokens)
            self._written[chunk.row] = len(chunk.tokens)
        for decode, chosen in zip(plan.decode, result.decode, strict=True):
            self._held[decode.row] = decode.length + len(chosen.tokens)
        self._schedule.stepped(live=all(row >= 0 for row in self._held))
        return result

    def needs(self) -> "Needs":
        """Of its rows."""
        specs = [*self._target.cache_specs]
        if self._new.drafter is not None:
            specs += self._new.drafter.cache_specs
        own = sum(row_needs(specs, held, self._new.block_size) for held in self._held.values())
        # what a step wrote is held twice until the next one
        slacks = (SLACK + self._written.get(row, 0) for row in self._held)
        slack = sum(row_needs(specs, tokens, 0, states=False) for tokens in slacks)
        return Needs(own, slack + len(self._held) * self.bytes_laid_aside)


@dataclass(frozen=True, slots=True)
class World:
    """A target of one kind, its drafters, of which one decodes plainly, and its runners' type."""

    name: str
    target: TargetAdapter
    drafters: tuple[NewDrafter, ...]
    runner: type[Watched] = Watched


@dataclass(slots=True)
class Tally:
    """What the schedules of one world did, and the worst that was seen after any step.

    ``ratio``: bytes over the rows' own needs; ``ratio_beyond_slack``: the same without the bytes of
    their slack and `BESIDE`; ``of_limit``: bytes over the memory limit, where there was one.
    """

    counts: Counter[str] = field(default_factory=Counter)
    ratio: float = 0.0
    ratio_beyond_slack: float = 0.0
    of_limit: float = 0.0
    failures: list[str] = field(default_factory=list)

    def note(self, taken: int, needs: "Needs", limit: int) -> None:
        """Caches take ``taken`` bytes after a step, under a ``limit``, 0 for none."""
        if limit:
            self.of_limit = max(self.of_limit, taken / limit)
            if taken > limit:
                self.failures.append(f"caches take {taken} bytes under a limit of {limit}")
        if not needs.own:
            return
        beyond = (taken - BESIDE - needs.slack) / needs.own
        self.ratio = max(self.ratio, taken / needs.own)
        self.ratio_beyond_slack = max(self.ratio_beyond_slack, beyond)
        if beyond > ALLOWED:
            self.failures.append(
                f"caches take {taken} bytes, but rows need {needs.own} and {needs.slack} of slack"
            )


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that rows need, and those of their slack.

    Slack is `SLACK` tokens of each row, what the last step wrote to it, and what plain rounds lay
    aside.
    """

    own: int = 0
    slack: int = 0


def load_world(name: str, seed: int) -> World:
    """A random target by its name, with drafters of different sizes and without one."""
    pairs = [
        load_pair(PairChoice(random_target=name, draft_layers=layers, block_size=block, seed=seed))
        for layers, block in _DRAFTERS
    ]
    drafters = [NewDrafter(None, 1)]
    for pair, (_, block) in zip(pairs, _DRAFTERS, strict=True):
        drafters.append(NewDrafter(pair.drafter, block))
    return World(name, pairs[0].target, tuple(drafters))


_COUNTED = ("steps", "requests", "aborts", "swaps", "refused_swaps", "limited", "wrong")


def run_schedules(world: World, count: int, seed: int) -> dict[str, Any]:
    """``count`` schedules one after another; JSON values."""
    tally, failures = Tally(), []
    gc.collect()  # what loading left
    before = mx.get_active_memory()
    for number in range(count):
        Schedule(world, random.Random(f"{seed} {world.name} {number}"), tally).run()
        if tally.failures:  # one cause has many steps
            failures.append(f"{world.name}, schedule {number}: {tally.failures[0]}")
            tally.failures.clear()
    left = mx.get_active_memory() - before
    if left > BESIDE:
        failures.append(f"{world.name}: {left} bytes are left after all schedules")
    tally.counts["wrong"] = len(failures)
    return {
        "target": world.name,
        "schedules": count,
        **{kind: tally.counts[kind] for kind in _COUNTED},
        "worst_ratio": tally.ratio,
        "worst_ratio_beyond_slack": tally.ratio_beyond_slack,
        "worst_of_limit": tally.of_limit,
        "bytes_left": left,
        "failures": failures,
    }


class Schedule:
    """One random schedule. After its constructor and but for `run`, all is on the loop's thread."""

    def __init__(self, world: World, rng: random.Random, tally: Tally) -> None:
        self._world, self._rng, self._tally = world, rng, tally
        self._loop = EngineLoop(self._tell, self._clock)
        self._ended: queue.SimpleQueue[Changed] = queue.SimpleQueue()
        self._watched: list[Watched] = []
        self._now = 0.0
        self._steps = 0
        self._coming = rng.randint(1, 7)
        self._live: list[str] = []
        self._swapping = False
        self._limit = self._context = 0
        self._base = mx.get_active_memory()

    def run(self) -> None:
        """Every step, until all requests have ended."""
        self._loop.start()
        self._loop.put(Open(self._draw_loaded()))
        try:
            end = self._ended.get(timeout=_PATIENCE)
        except queue.Empty:
            raise BenchError(f"a schedule did not end within {_PATIENCE:.0f} s") from None
        self._loop.join(_PATIENCE)
        self._tally.counts["steps"] += self._steps
        if end.state is not EngineState.STOPPED:
            self._tally.failures.append(f"the engine has failed: {end.failure}")
        left = sum(watched.rows for watched in self._watched)
        if left:
            self._tally.failures.append(f"{left} rows are left")

    def watch(self, watched: Watched) -> None:
        """Count a runner's rows from now on."""
        self._watched.append(watched)

    def stepped(self, *, live: bool) -> None:
        """A runner has made a step, ``live`` if not of scratch rows: measure, draw what comes."""
        self._measure()
        self._steps += 1
        if self._steps == _MOST_STEPS:
            self._tally.failures.append(f"no end after {_MOST_STEPS} steps")
            self._loop.put(Stop())
        if not live:
            return
        rng = self._rng
        if self._coming and rng.random() < 0.3:
            self._join()
        if self._live and rng.random() < 0.04:
            self._loop.put(Abort(rng.choice(self._live)))
            self._tally.counts["aborts"] += 1
        if not self._swapping and rng.random() < 0.05:
            self._swapping = True
            self._loop.put(Swap(0, rng.choice(self._world.drafters)))

    def _draw_loaded(self) -> Loaded:
        rng, world = self._rng, self._world
        first = rng.choice(world.drafters)
        runner = world.runner(self, world.target, first)
        self._context = rng.choice(_CONTEXTS)
        longest = runner.bytes_for(self._context + first.block_size)
        self._limit = int(rng.uniform(1, 4) * longest) if rng.random() < 0.7 else 0
        self._tally.counts["limited"] += self._limit > 0
        config = EngineConfig(
            max_batch=rng.randint(1, 8),
            max_context=self._context,
            prefill_chunk=rng.choice((64, 128, 256)),
            block_size=first.block_size,
            memory_limit=self._limit,
        )
        return Loaded(runner, config)

    def _clock(self) -> float:
        self._now += self._rng.uniform(0.0, 0.1)  # chunks of many sizes
        return self._now

    def _join(self) -> None:
        rng = self._rng
        name = str(self._tally.counts["requests"])
        most = self._context - 24
        tokens = rng.randint(1, rng.choice((40, most // 4, most, most)))
        prompt = tuple(rng.randrange(self._world.target.vocab_size) for _ in range(tokens))
        sampling = SamplingParams(rng.choice((0.0, 0.9)), seed=rng.randrange(2**32))
        self._loop.put(Add(EngineRequest(name, prompt, rng.randint(1, 16), sampling)))
        self._coming -= 1
        self._live.append(name)
        self._tally.counts["requests"] += 1

    def _measure(self) -> None:
        needs = [watched.needs() for watched in self._watched]
        own, slack = sum(one.own for one in needs), sum(one.slack for one in needs)
        self._tally.note(mx.get_active_memory() - self._base, Needs(own, slack), self._limit)

    def _tell(self, event: Event) -> None:
        match event:
            case Emitted(chunks):
                self._take(chunks)
            case Swapped(_, failure):
                self._swapping = False
                self._tally.counts["swaps" if failure is None else "refused_swaps"] += 1
                if failure is not None and not isinstance(failure, ValueError):
                    self._tally.failures.append(f"a swap failed: {failure}")
            case Changed(EngineState.READY):
                pass
            case Changed():
                self._ended.put(event)
        if not self._live and not self._swapping:
            if self._coming:
                self._join()
            else:
                self._loop.put(Stop())

    def _take(self, chunks: list[TokenChunk]) -> None:
        for chunk in chunks:
            if chunk.finish is FinishReason.ERROR:
                self._tally.failures.append(f"a step failed: {chunk.error}")
            if chunk.finish is not None:
                self._live.remove(chunk.request_id)


def row_needs(specs: Sequence[LayerSpec], tokens: int, block: int, *, states: bool = True) -> int:
    """Bytes of exactly ``tokens`` tokens and a block in layers of ``specs``, nothing rounded."""
    total = 0
    for spec in specs:
        if isinstance(spec, AttentionSpec):
            seen = tokens if spec.window is None else min(tokens, spec.window)
            total += 2 * spec.kv_heads * spec.head_dim * spec.dtype.size * (seen + block)
        elif states:
            total += sum(prod(array.shape) * array.dtype.size for array in spec.arrays)
    return total
