"""Replays traces on a machine's cost table through the engine's own scheduler, without a device.

The clock is made up of the table's seconds, so a replay is the same on every machine.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dflash_serve.bench.policy_machines import Machine
from dflash_serve.bench.policy_traces import Trace
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import Chosen, DecodeRow, StepPlan, StepResult, nothing
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest
from dflash_serve.engine.warm_up import measured_costs


@dataclass(frozen=True, slots=True)
class Noise:
    """What a policy sees of a round's seconds: ``jitter`` is the sigma of their logarithm.

    ``slow``: factor of every second stretch of ``stretch`` rounds, as on a machine that others use.
    """

    jitter: float = 0.0
    slow: float = 1.0
    stretch: int = 200
    seed: int = 0

    def factors(self) -> Iterator[float]:
        rng = np.random.default_rng(self.seed)
        turn = 0
        while True:
            slow = self.slow if turn // self.stretch % 2 else 1.0
            yield slow * float(np.exp(self.jitter * rng.standard_normal()))
            turn += 1


@dataclass(slots=True)
class Replay:
    """What a replay came to. ``seconds`` are the table's own, without noise.

    ``widths``: rounds by their width.
    """

    tokens: int = 0
    seconds: float = 0.0
    rounds: int = 0
    widths: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class TraceRunner:
    """A `Runner` whose rows commit what their traces say. Owner of the made-up clock.

    A request's prompt is one token: the number of its trace. Rows below zero are a warm-up's: they
    commit a token per round. ``drafts`` off is a runner without a
    drafter.
    """

    def __init__(
        self, traces: Sequence[Trace], machine: Machine, noise: Noise, *, drafts: bool
    ) -> None:
        self._traces = traces
        self._machine = machine
        self._factors = noise.factors()
        self._drafts = drafts
        self._rows: dict[int, Trace] = {}
        self._now = 0.0
        self.replay = Replay()

    def clock(self) -> float:
        """Seconds, with noise."""
        return self._now

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        meanwhile()
        for row in plan.closed:
            self._rows.pop(row, None)
        for opened in plan.prefill:
            self._rows[opened.row] = self._traces[opened.tokens[0]]
        prefill = tuple(Chosen((0,)) for _ in plan.prefill)
        if not plan.decode:
            return StepResult(prefill)
        seconds = self._seconds(plan.decode)
        noisy = seconds * next(self._factors)
        self._now += noisy
        decode = tuple(self._chosen(row) for row in plan.decode)
        self.replay.tokens += sum(len(chosen.tokens) for chosen in decode)
        self.replay.seconds += seconds
        self.replay.rounds += 1
        return StepResult(prefill, decode, noisy)

    def reset(self) -> None:
        self._rows.clear()

    def close(self) -> None:
        self.reset()

    def _seconds(self, rows: Sequence[DecodeRow]) -> float:
        widest = max(row.block for row in rows)
        width = min(1 << (widest - 1).bit_length(), self._machine.block)
        self.replay.widths[width] += 1
        if not self._drafts:
            return self._machine.plain(len(rows))
        return self._machine.round(len(rows), width)

    def _chosen(self, row: DecodeRow) -> Chosen:
        if row.row < 0:
            return Chosen((0,))
        return Chosen((0,) * self._rows[row.row].committed(row.length - 1, row.block))


def replay(
    traces: Sequence[Trace],
    machine: Machine,
    rows: int,
    block: int = 1,
    *,
    auto: Noise | None = None,
) -> Replay:
    """Decode all requests, ``rows`` at a time, each round ``block`` wide; 1 is without a drafter.

    ``auto``: the policy chooses up to ``block``, and sees that noise.
    """
    runner = TraceRunner(traces, machine, auto or Noise(), drafts=block > 1)
    config = EngineConfig(
        max_batch=rows, max_queue=len(traces), block_size=block, adaptive=auto is not None
    )
    costs = measured_costs(runner, config, lambda tokens: 0, runner.clock) if auto else ()
    runner.replay = Replay()
    scheduler = Scheduler(config, runner.clock, costs=costs)
    for number, trace in enumerate(traces):
        scheduler.add(EngineRequest(str(number), (number,), trace.rounds + 1))
    while (plan := scheduler.plan()) is not None:
        scheduler.commit(plan, runner.run(plan))
    return runner.replay
