"""A runner without a device, which counts, checks what it is given, and fails when told to."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dflash_serve.engine.plan import (
    Chosen,
    ContextRow,
    DecodeRow,
    PrefillRow,
    StepPlan,
    StepResult,
    nothing,
)


@dataclass(frozen=True)
class Drafter:
    """Stands for the weights of one; ``broken``: whatever runs with it raises.

    ``token_bytes`` come on top of the target's.
    """

    name: str
    broken: bool = False
    token_bytes: int = 0


@dataclass
class CountingRunner:
    """After every token comes the next number; all drafts are accepted.

    ``failures``: what the step of that number raises, from 1 on; steps of scratch rows (warm-ups)
    do not count. ``gate`` holds every counted step until it is set, and step ``hold_at`` closes it
    behind itself. Rows' tokens are kept as caches would keep them, so a plan that does not fit what
    a row holds is an error of the test's own.
    """

    failures: Mapping[int, Exception] = field(default_factory=dict)
    hold_at: int = -1
    reset_failure: Exception | None = None
    token_bytes: int = 0
    drafter: Drafter | None = None

    def __post_init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = False
        self.steps = 0
        self.plans: list[StepPlan] = []
        self.scratch_plans: list[StepPlan] = []
        self.resets = 0
        self.closed_on: list[str] = []
        self.besides: list[CountingRunner] = []
        self.threads: set[str] = set()
        self.rows: dict[int, list[int]] = {}
        self._spoilt = False

    @property
    def shows_context(self) -> bool:
        return True

    def bytes_for(self, tokens: int) -> int:
        drafter = self.drafter.token_bytes if self.drafter else 0
        return (self.token_bytes + drafter) * tokens

    def draft_with(self, drafter: Drafter | None, block_size: int) -> None:
        self.threads.add(threading.current_thread().name)
        self.drafter = drafter

    def beside(self, drafter: Drafter | None, block_size: int) -> "CountingRunner":
        self.besides.append(CountingRunner(token_bytes=self.token_bytes, drafter=drafter))
        return self.besides[-1]

    def reset(self) -> None:
        self.resets += 1
        if self.reset_failure is not None and self.plans:
            raise self.reset_failure
        self.rows.clear()
        self._spoilt = False

    def close(self) -> None:
        self.closed_on.append(threading.current_thread().name)

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        assert not self.closed_on
        assert not self._spoilt, "a step failed, and nobody reset the runner"
        self.threads.add(threading.current_thread().name)
        for row in plan.closed:
            self.rows.pop(row, None)
        if any(row.row < 0 for row in (*plan.prefill, *plan.decode)):
            self.scratch_plans.append(plan)
            if self.drafter is not None and self.drafter.broken:
                raise RuntimeError("[matmul] shapes do not fit\nat all")
        else:
            self._count(plan)
        for shown in plan.context:
            self._show(shown)
        meanwhile()
        return StepResult(
            tuple(Chosen((self._fill(row),)) for row in plan.prefill),
            tuple(Chosen(self._decode(row)) for row in plan.decode),
        )

    def _count(self, plan: StepPlan) -> None:
        self.waiting = True
        assert self.gate.wait(120)
        self.steps += 1
        self.plans.append(plan)
        if self.steps in self.failures:
            self._spoilt = True
            raise self.failures[self.steps]
        if self.steps == self.hold_at:
            self.gate.clear()

    def _show(self, row: ContextRow) -> None:
        held = self.rows[row.row]
        assert tuple(held[row.start : row.start + len(row.tokens)]) == row.tokens

    def _fill(self, row: PrefillRow) -> int:
        held = self.rows.setdefault(row.row, [])
        assert len(held) == row.start
        held += row.tokens
        return row.tokens[-1] + 1

    def _decode(self, row: DecodeRow) -> tuple[int, ...]:
        held = self.rows[row.row]
        assert len(held) == row.length
        held += range(row.anchor, row.anchor + row.block)
        return tuple(range(row.anchor + 1, row.anchor + 1 + row.block))
