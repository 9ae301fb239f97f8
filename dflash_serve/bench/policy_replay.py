"""Acceptance traces, and their replay on a machine's cost table, without a device.

A trace says how many drafts of a request are right from each of its tokens on, recorded or made up.
The replay goes through the engine's own scheduler, whose clock is made up of the table's seconds:
it is the same on every machine.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np

from dflash_serve.bench.policy_machines import Machine
from dflash_serve.bench.simulated import solve_probability
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import Chosen, DecodeRow, StepPlan, StepResult, nothing
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest
from dflash_serve.engine.warm_up import measured_costs

BLOCKS = (2, 4, 8, 16)
"""Blocks that are recorded, and replayed beside plain decoding."""
_USELESS_TAU, _EASY_TAU = 1.05, 7.0
_SCATTERED = (0.3, 0.97)
_PHASES = (0.95, 0.15)


@dataclass(frozen=True, slots=True)
class Trace:
    """One request. ``accepted`` by block: right drafts behind the anchor at each position.

    Position 0 is the first generated token. A block that was not recorded is a longer one cut.
    """

    kind: str
    accepted: Mapping[int, tuple[int, ...]]

    @property
    def block(self) -> int:
        """The longest that was recorded."""
        return max(self.accepted)

    @property
    def rounds(self) -> int:
        """Tokens behind the first: the rounds that plain decoding takes."""
        return len(next(iter(self.accepted.values())))

    def committed(self, position: int, block: int) -> int:
        """Tokens that a round with ``block`` commits after the anchor at ``position``."""
        recorded = min((size for size in self.accepted if size >= block), default=self.block)
        return min(self.accepted[recorded][position], block - 1, self.rounds - position - 1) + 1


@dataclass(frozen=True, slots=True)
class Workload:
    """Traces in the order in which their requests arrive."""

    name: str
    traces: tuple[Trace, ...]

    @property
    def block(self) -> int:
        """The longest that all of them can replay."""
        return min(trace.block for trace in self.traces)

    def repeated(self, count: int) -> "Workload":
        """``count`` requests, the same ones again and again."""
        return Workload(self.name, tuple(islice(cycle(self.traces), count)))


def generated(count: int, length: int, seed: int) -> list[Workload]:
    """Made-up workloads of ``count`` requests with ``length`` rounds of plain decoding each."""
    rng = np.random.default_rng(seed)
    block = max(BLOCKS)
    easy, useless = (solve_probability(tau, block) for tau in (_EASY_TAU, _USELESS_TAU))
    scattered = rng.uniform(*_SCATTERED, count)
    once = np.repeat(_PHASES, -(-length // 2))
    often = np.tile(np.repeat(_PHASES, -(-length // 4)), 2)
    probabilities = {
        "easy": [np.full(length, easy)] * count,
        "mixed": [np.full(length, one) for one in scattered],
        "useless": [np.full(length, useless)] * count,
        "phases": [(once if row % 2 else often)[:length] for row in range(count)],
        "unlike rows": [np.full(length, (easy, useless)[row % 2]) for row in range(count)],
    }
    return [
        Workload(name, tuple(_made(name, one, block, rng) for one in each))
        for name, each in probabilities.items()
    ]


def from_json(entries: Sequence[Mapping[str, Any]]) -> list[Trace]:
    """The inverse of `as_json`.

    Raises:
        ValueError: lists of one trace are of unequal length, or empty.
    """
    traces = [
        Trace(
            str(entry["kind"]),
            {int(block): _counts(digits) for block, digits in entry["accepted"].items()},
        )
        for entry in entries
    ]
    for trace in traces:
        lengths = {len(counts) for counts in trace.accepted.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"a trace has lists of {sorted(lengths)} positions")
    return traces


def as_json(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Of each trace its kind and, by block, a base-36 digit per position."""
    return [
        {
            "kind": trace.kind,
            "accepted": {
                str(block): "".join(np.base_repr(count, 36) for count in counts)
                for block, counts in trace.accepted.items()
            },
        }
        for trace in traces
    ]


def _counts(digits: str) -> tuple[int, ...]:
    return tuple(int(digit, 36) for digit in digits)


def _made(kind: str, probability: np.ndarray, block: int, rng: np.random.Generator) -> Trace:
    """A token is guessed from every anchor before it, or from none: what is hard stays hard."""
    right = rng.random(len(probability)) < probability  # of the token behind each anchor
    runs, run = [], 0
    for one in reversed(right):
        run = run + 1 if one else 0
        runs.append(min(run, block - 1))
    return Trace(kind, {block: tuple(reversed(runs))})


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
