"""The course of a run: when it measures, saves, and ends; and how it is taken up again.

Tells listeners and a checkpoint store; knows no terminal and no drafter files.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from dflash_serve.measure.intervals import Interval
from dflash_serve.training.run.checkpoint import Checkpoint, CheckpointStore
from dflash_serve.training.run.guard import Diverged, LossGuard
from dflash_serve.training.run.trainer import StepReport, Trainer

_KEPT = ("position", "losses")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come. ``since_best`` counts measurements since the best one.

    ``reported`` is the best one's value on the answers that do not choose.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = 0.0
    best_step: int = 0
    since_best: int = 0
    reported: float = 0.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a drafter is worth: ``value`` decides which one is the best.

    It is tokens per round, mean over responses, or what stands for it in another mode; ``pooled``
    is that of all rounds together, None where there is no such figure. ``interval`` of the value,
    where it was asked for; ``detail`` is more, as JSON.
    """

    value: float
    pooled: float | None = None
    interval: Interval | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class MeasureReport:
    """One `Measurement` of a run, after ``step``."""

    step: int
    progress: float
    value: float
    best: bool
    pooled: float | None = None
    reported: Measurement | None = None


class Ending(StrEnum):
    FINISHED = "finished"
    NO_BETTER = "no better"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Outcome:
    ending: Ending
    position: Position


class Listener:
    """Sees the run as it goes: what of it is kept, shown, sent or judged."""

    def on_step(self, report: StepReport) -> None:
        """After every step."""

    def on_measure(self, report: MeasureReport) -> None:
        """After every measurement."""

    def close(self) -> None:
        """The run is over, however it ended."""


def never() -> bool:
    return False


@dataclass(slots=True)
class Run:
    """One run of ``trainer``. Owns its position; ``store`` None keeps no checkpoints.

    ``measure`` says what the drafter as it stands is worth and chooses the best; ``report`` says so
    of other answers and chooses nothing. ``stop`` is asked after every step.
    """

    trainer: Trainer
    measure: Callable[[], Measurement]
    listeners: Sequence[Listener] = ()
    store: CheckpointStore | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    stop: Callable[[], bool] = never
    report: Callable[[], Measurement] | None = None
    position: Position = field(default_factory=Position)
    _guard: LossGuard = field(default_factory=lambda: LossGuard([]))
    _started: float = 0.0

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint, which only the first process needs to have."""
        facts = checkpoint.facts if checkpoint else {}
        facts = self.trainer.processes.told({name: facts.get(name) for name in _KEPT})
        self.position = Position(**facts["position"])
        self._guard = LossGuard(facts["losses"])
        arrays = checkpoint.arrays if checkpoint else None
        self.trainer.restore(arrays, self.position.step)

    def go(self) -> Outcome:
        """Train to the horizon, or until told to stop."""
        self._started = time.monotonic() - self.position.seconds
        if self.position.step == 0:
            self._save()
        while (ending := self._ending()) is None:
            stopping = self._advance()
            due = self.position.step % self.trainer.options.checkpoint_every == 0
            if stopping or (due and self._guard.calm) or self._ending() is not None:
                self._save()
            if stopping:
                return Outcome(Ending.STOPPED, self.position)
        return Outcome(ending, self.position)

    @property
    def progress(self) -> float:
        return self.trainer.horizon.progress(self.position.step, self.position.seconds)

    def _ending(self) -> Ending | None:
        patience = self.trainer.options.patience
        if self.progress >= 1.0:
            return Ending.FINISHED
        if patience is not None and self.position.since_best >= patience:
            return Ending.NO_BETTER
        return None

    def _advance(self) -> bool:
        """One step, and a measurement if one is due; returns whether to stop."""
        step = self.position.step
        try:
            report = self.trainer.step(step, self.progress, self.position.seconds)
        except Diverged as error:
            raise Diverged(f"{error}; {self._last_good()}") from error
        self._guard.see(report.loss)
        if self._guard.exploded and self.progress > self.trainer.options.schedule.warmup:
            raise Diverged(
                f"the loss has exploded: {report.loss:.3g} at step {step}; {self._last_good()}"
            )
        for listener in self.listeners:
            listener.on_step(report)
        seconds, stopping = self._agree(time.monotonic() - self._started, self.stop())
        self.position = replace(self.position, step=step + 1, seconds=seconds)
        if self.progress >= 1.0 or (step + 1) % self.trainer.options.measure_every == 0:
            self._measure()
        return stopping

    def _measure(self) -> None:
        found, position = self.measure(), self.position
        reported = self.report() if self.report else None
        value, better = found.value, found.value > position.best
        if better:
            position = replace(
                position,
                best=value,
                best_step=position.step,
                since_best=0,
                reported=reported.value if reported else 0.0,
            )
        else:
            position = replace(position, since_best=position.since_best + 1)
        self.position = position
        told = MeasureReport(position.step, self.progress, value, better, found.pooled, reported)
        for listener in self.listeners:
            listener.on_measure(told)

    def _agree(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """The first process's clock, and whether anyone wants to stop."""
        processes = self.trainer.processes
        clock, stops = processes.total([seconds if processes.first else 0.0, float(stop)])
        return clock, stops > 0

    def _save(self) -> None:
        if self.store is None or not self.trainer.processes.first:
            return
        facts = {
            "position": asdict(self.position),
            "losses": self._guard.losses,
            "identity": self.identity,
        }
        self.store.save(Checkpoint(self.position.step, self.trainer.state(), facts))

    def _last_good(self) -> str:
        folders = self.store.folders() if self.store else []
        return f"the last good checkpoint is {folders[-1]}" if folders else "nothing was saved"
