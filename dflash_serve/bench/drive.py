"""Runs requests through the real scheduler and runner on this thread, and keeps every step's cost.

The loop is the engine's own step, without its thread: what it measures is what serving does.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint
from dflash_serve.engine.plan import Runner, StepPlan
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import (
    EngineRequest,
    EngineStats,
    FinishReason,
    TokenChunk,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step. Times in seconds; ``tokens`` counts what its decode rows committed and kept."""

    total: float
    device: float
    decode_rows: int
    prefill_rows: int
    tokens: int


@dataclass(slots=True)
class Answer:
    """What one request got. ``rounds`` has the committed tokens of each of its rounds."""

    tokens: list[int] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A whole run: answers by request id, steps in order, wall seconds, final statistics."""

    answers: dict[str, Answer]
    steps: list[Step]
    wall: float
    stats: EngineStats

    @property
    def generated(self) -> int:
        return sum(answer.usage.completion_tokens for answer in self.answers.values())

    @property
    def decode_rate(self) -> float:
        """Tokens per second in steps that decode only: no prompt was processed meanwhile."""
        steps = [step for step in self.steps if not step.prefill_rows]
        seconds = sum(step.total for step in steps)
        return sum(step.tokens for step in steps) / seconds if seconds else 0.0

    @property
    def total_rate(self) -> float:
        """Generated tokens per second of the whole run, prompts included."""
        return self.generated / self.wall if self.wall else 0.0

    def outside_fraction(self, rows: int) -> float | None:
        """Share of decode-only steps with ``rows`` rows that was spent outside MLX calls."""
        steps = [s for s in self.steps if s.decode_rows == rows and not s.prefill_rows]
        total = sum(step.total for step in steps)
        return 1.0 - sum(step.device for step in steps) / total if total else None


class Driver:
    """One scheduler over one runner. Owner of the records of one run.

    ``sink`` gets each step's chunks inside the step's time, as a server's text would be made.
    ``costs``: as `Scheduler` takes them.
    """

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        sink: Callable[[Sequence[TokenChunk]], None] | None = None,
        costs: Iterable[CostPoint] = (),
    ) -> None:
        self._runner = runner
        self._scheduler = Scheduler(config, time.perf_counter, costs=costs)
        self._sink = sink
        self._started = time.perf_counter()
        self.answers: dict[str, Answer] = {}
        self.steps: list[Step] = []

    @property
    def idle(self) -> bool:
        return self._scheduler.idle

    def add(self, request: EngineRequest) -> None:
        self.answers[request.id] = Answer()
        self._scheduler.add(request)

    def abort(self, request_id: str) -> None:
        self._take(self._scheduler.abort(request_id))

    def step(self) -> None:
        """One step of the engine, if anything can run."""
        started = time.perf_counter()
        plan = self._scheduler.plan()
        if plan is None:
            return
        result = self._runner.run(plan)
        chunks = self._scheduler.commit(plan, result)
        if self._sink is not None:
            self._sink(chunks)
        total = time.perf_counter() - started
        tokens = self._take(chunks, plan)
        rows = len(plan.decode), len(plan.prefill)
        if any(rows):  # the last step only frees caches
            self.steps.append(Step(total, result.device_time, *rows, tokens))

    def finish(self) -> Run:
        """Run until nothing is left."""
        while not self.idle:
            self.step()
        wall = time.perf_counter() - self._started
        return Run(self.answers, self.steps, wall, self._scheduler.stats())

    def _take(self, chunks: Sequence[TokenChunk], plan: StepPlan | None = None) -> int:
        """Book the chunks; the number of tokens that rounds committed.

        A request's first token comes from its prompt, not from a round. A stop token counts.
        """
        committed = 0
        for chunk in chunks:
            answer = self.answers[chunk.request_id]
            answer.tokens.extend(chunk.tokens)
            kept = len(chunk.tokens) + (chunk.finish is FinishReason.STOP)
            if plan is not None:
                if answer.chunks:
                    answer.rounds.append(kept)
                    committed += kept
                answer.chunks += 1
            if chunk.finish is not None:
                answer.finish = chunk.finish
                answer.usage = chunk.usage or answer.usage
        return committed


def run_all(
    runner: Runner,
    config: EngineConfig,
    requests: Sequence[EngineRequest],
    sink: Callable[[Sequence[TokenChunk]], None] | None = None,
    costs: Iterable[CostPoint] = (),
) -> Run:
    """All requests at once; the scheduler admits as many as its slots hold."""
    driver = Driver(runner, config, sink, costs)
    for request in requests:
        driver.add(request)
    return driver.finish()
