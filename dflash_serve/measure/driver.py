"""Runs requests through the engine's own scheduler and runner, on the calling thread.

One step is the engine's own, without its thread and queues: what is measured here is what serving
does. Knows no text.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint
from dflash_serve.engine.plan import Runner, StepPlan, StepResult
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import (
    EngineRequest,
    EngineStats,
    FinishReason,
    TokenChunk,
    Usage,
)
from dflash_serve.measure.figures import Round, RoundCount, Speed, time_per_output_token

Sink = Callable[[Sequence[TokenChunk]], None]
"""Gets each step's chunks inside the step's time, as a server's text is made of them."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. Times in seconds; ``tokens`` counts what its decode rows committed and kept.

    ``cold``: its round traced a graph first.
    """

    total: float
    device: float
    decode_rows: int
    prefill_rows: int
    tokens: int
    cold: bool = False


@dataclass(slots=True)
class Answer:
    """What one request got so far. ``tokens`` are without the stop token; ``finish`` None: more.

    ``rounds`` has none for the first token, which comes of the prompt.
    """

    tokens: list[int] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    finish: FinishReason | None = None
    stop_token: int | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def committed(self) -> list[int]:
        """Committed tokens of each round."""
        return [one.committed for one in self.rounds]

    @property
    def count(self) -> RoundCount:
        return RoundCount(sum(self.committed), len(self.rounds))


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
    def speed(self) -> Speed:
        usages = [answer.usage for answer in self.answers.values()]
        per_token = time_per_output_token((u.decode_time, u.completion_tokens) for u in usages)
        return Speed(self.generated, self.wall, per_token)

    @property
    def step_rate(self) -> float:
        """Tokens per second of all rows in steps that process no prompt."""
        steps = [step for step in self.steps if not step.prefill_rows]
        seconds = sum(step.total for step in steps)
        return sum(step.tokens for step in steps) / seconds if seconds else 0.0

    def outside_fraction(self, rows: int) -> float | None:
        """Share of decode-only steps with ``rows`` rows that was spent outside MLX calls."""
        steps = [s for s in self.steps if s.decode_rows == rows and not s.prefill_rows]
        total = sum(step.total for step in steps)
        return 1.0 - sum(step.device for step in steps) / total if total else None


class Driver:
    """One scheduler over one runner. Owner of the answers, and of the steps with ``keep_steps``.

    The runner stays its maker's, who closes it on the thread that ran it: graphs that were traced
    are let go there. ``costs``: as `Scheduler` takes them.
    """

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        *,
        sink: Sink | None = None,
        costs: Iterable[CostPoint] = (),
        keep_steps: bool = False,
    ) -> None:
        self._runner = runner
        self._scheduler = Scheduler(config, time.perf_counter, costs=costs)
        self._sink = sink
        self._keep_steps = keep_steps
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
        for chunk in self._scheduler.abort(request_id):
            self._take(chunk)

    def step(self) -> list[str]:
        """One step of the engine, if anything can run; ids of the requests that it finished."""
        started = time.perf_counter()
        plan = self._scheduler.plan()
        if plan is None:
            return []
        result = self._runner.run(plan)
        chunks = self._scheduler.commit(plan, result)
        if self._sink is not None:
            self._sink(chunks)
        total = time.perf_counter() - started
        tokens = self._take_rounds(plan, result, chunks)
        if self._keep_steps and (plan.decode or plan.prefill):  # the last step only frees caches
            rows = len(plan.decode), len(plan.prefill)
            self.steps.append(Step(total, result.device_time, *rows, tokens, result.cold))
        return [chunk.request_id for chunk in chunks if chunk.finish is not None]

    def finish(self) -> Run:
        """Run until nothing is left."""
        while not self.idle:
            self.step()
        wall = time.perf_counter() - self._started
        return Run(self.answers, self.steps, wall, self._scheduler.stats())

    def _take_rounds(self, plan: StepPlan, result: StepResult, chunks: Sequence[TokenChunk]) -> int:
        """Book the chunks of a step; how many tokens its rounds committed."""
        firsts = len(chunks) - len(plan.decode)  # commit tells prompts first, then every round
        for chunk in chunks[:firsts]:
            self._take(chunk)
        tokens = 0
        for row, chosen, chunk in zip(plan.decode, result.decode, chunks[firsts:], strict=True):
            committed = len(chunk.tokens) + (chunk.finish is FinishReason.STOP)
            accepted = max(0, min(committed, len(chosen.tokens) - 1))
            self._take(chunk).rounds.append(Round(row.block - 1, accepted, committed))
            tokens += committed
        return tokens

    def _take(self, chunk: TokenChunk) -> Answer:
        answer = self.answers[chunk.request_id]
        answer.tokens.extend(chunk.tokens)
        if chunk.finish is not None:
            answer.finish, answer.stop_token = chunk.finish, chunk.stop_token
            answer.usage = chunk.usage or answer.usage
        return answer


def run_all(
    runner: Runner,
    config: EngineConfig,
    requests: Sequence[EngineRequest],
    sink: Sink | None = None,
    costs: Iterable[CostPoint] = (),
) -> Run:
    """All requests at once, every step kept; the scheduler admits as many as its slots hold."""
    driver = Driver(runner, config, sink=sink, costs=costs, keep_steps=True)
    for request in requests:
        driver.add(request)
    return driver.finish()
