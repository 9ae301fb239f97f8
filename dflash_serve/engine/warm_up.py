"""The first steps of a runner, before it serves: they compile kernels and show that it can run.

Where the engine chooses what rounds draft, they also measure what rounds cost. Plans only: who runs
them does so between the steps of live requests.
"""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import Protocol

from dflash_serve.engine.block_policy import widths_to
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint, CostTable
from dflash_serve.engine.plan import (
    DecodeRow,
    PrefillRow,
    RowBytes,
    Runner,
    StepPlan,
    StepResult,
)
from dflash_serve.engine.policies import judges_chains
from dflash_serve.engine.types import SamplingParams

_ROWS = 2
_MEASURED_ROWS = 32
"""More rows than these are extrapolated."""
_LENGTH = 512
"""Tokens that a row comes to hold where rounds are measured, at most."""
_SECONDS = 6.0
"""What measuring may take; two points are measured even so."""
_REPEATS = 5
"""Rounds of one point, of which the fastest counts: whatever disturbs one slows it. One where they
are slow."""
_ATTEMPTS = 10
"""Rounds of one point at most: those that are traced are slow, and are not counted."""
_GREEDY = SamplingParams()


class CostStore(Protocol):
    """Keeps the measured costs of one runner from one start to the next."""

    def read(self) -> tuple[CostPoint, ...]:
        """Nothing if they have to be measured."""
        ...

    def write(self, points: Sequence[CostPoint]) -> None: ...


@dataclass(frozen=True, slots=True)
class Took:
    """What a step gave, and how long it took."""

    result: StepResult
    seconds: float


Steps = Generator[StepPlan, Took, tuple[CostPoint, ...]]


class WarmUp:
    """The first steps of a runner, one at a time.

    Their rows have numbers below zero, which no request's row has. There is no step if a block has
    no room. ``known``: costs that need not be measured. When there is no further step, ``costs``
    has what is known of them.
    """

    def __init__(
        self, config: EngineConfig, row_bytes: RowBytes, known: Iterable[CostPoint] = ()
    ) -> None:
        self.costs = tuple(known)
        self.measures = judges_chains(config) and not self.costs
        least = 1 + config.round_tokens
        length = max(least, min(config.max_context, _LENGTH)) if self.measures else least
        each = row_bytes(length)
        rows = min(config.max_batch, _MEASURED_ROWS if self.measures else _ROWS)
        if config.memory_limit and each:
            rows = max(1, min(rows, config.memory_limit // each))
        self.rows, self.bytes = rows, rows * each
        """How many rows run at most, and what they take."""
        self._steps: Steps | None = None
        self._took: Took | None = None
        if config.max_context > config.round_tokens:
            scratch = _Scratch(config, length)
            self._steps = scratch.measured(rows) if self.measures else scratch.once(rows)

    def next(self) -> StepPlan | None:
        """The next step, None after the last one."""
        if self._steps is None:
            return None
        try:
            return next(self._steps) if self._took is None else self._steps.send(self._took)
        except StopIteration as end:
            self._steps = None
            self.costs = end.value or self.costs
            return None

    def ran(self, result: StepResult, seconds: float) -> None:
        """The step that `next` gave has run."""
        self._took = Took(result, seconds)


def measured_costs(
    runner: Runner,
    config: EngineConfig,
    row_bytes: RowBytes,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[CostPoint, ...]:
    """What rounds of ``runner`` cost, which is left without the rows that were used."""
    warm_up = WarmUp(config, row_bytes)
    while (plan := warm_up.next()) is not None:
        started = clock()
        result = runner.run(plan)
        warm_up.ran(result, clock() - started)
    return warm_up.costs


def _to_measure(rows: int, block: int) -> list[tuple[int, int]]:
    """(rows, width) of rounds, what says most first."""
    counts = [count for count in dict.fromkeys((1, rows, 4, 2, 8)) if count <= rows]
    ends = [(count, width) for count in counts[:2] for width in (1, block)]
    return list(dict.fromkeys([*ends, *product(counts, widths_to(block))]))


class _Scratch:
    """Rows that live for first steps only, and take ``length`` tokens at most."""

    def __init__(self, config: EngineConfig, length: int) -> None:
        self._config = config
        self._length = length
        self._rows: dict[int, tuple[int, int]] = {}  # tokens held and the next anchor, by number
        self._numbers = count(-1, -1)

    def once(self, rows: int) -> Steps:
        """A prompt of one token and each kind of round, for one row and then for all."""
        block = self._config.block_size
        for some in dict.fromkeys((1, rows)):
            yield from self._open(some)
            for nodes in self._config.tree_nodes if block > 1 else (0,):
                yield from self._round(some, block, nodes)
        return ()

    def measured(self, rows: int) -> Steps:
        """Rounds of several rows and widths, as many as there is time for; what each cost."""
        points: list[CostPoint] = []
        spent = 0.0
        for some, width in _to_measure(rows, self._config.block_size):
            expected = CostTable(points).seconds(some, width) * _ATTEMPTS if points else 0.0
            hurry = spent + expected > _SECONDS
            if hurry and len(points) >= 2:
                continue
            times: list[float] = []
            for _ in range(_ATTEMPTS):
                took = yield from self._round(some, width)
                spent += took.seconds
                if not took.result.cold:
                    times.append(took.seconds)
                if len(times) == (1 if hurry else _REPEATS):
                    break
            if times:
                points.append(CostPoint(some, width, min(times)))
        yield StepPlan(closed=tuple(self._rows))
        return tuple(points)

    def _open(self, rows: int) -> Generator[StepPlan, Took, None]:
        """Begin anew with ``rows`` rows of one token."""
        closed = tuple(self._rows)
        numbers = [next(self._numbers) for _ in range(rows)]
        prefill = tuple(PrefillRow(row, 0, (0,), True, _GREEDY) for row in numbers)
        took = yield StepPlan(closed=closed, prefill=prefill)
        anchors = [chosen.tokens[0] for chosen in took.result.prefill]
        self._rows = {row: (1, anchor) for row, anchor in zip(numbers, anchors, strict=True)}

    def _round(self, rows: int, width: int, nodes: int = 0) -> Generator[StepPlan, Took, Took]:
        """A round of the first ``rows`` rows, for which there is room."""
        longest = max((held for held, _ in self._rows.values()), default=self._length)
        if len(self._rows) < rows or longest + self._config.round_tokens > self._length:
            yield from self._open(rows)
        numbers = list(self._rows)[:rows]
        decode = tuple(DecodeRow(row, *self._rows[row], width, _GREEDY) for row in numbers)
        took = yield StepPlan(decode=decode, nodes=nodes)
        for row, chosen in zip(numbers, took.result.decode, strict=True):
            self._rows[row] = (self._rows[row][0] + len(chosen.tokens), chosen.tokens[-1])
        return took
