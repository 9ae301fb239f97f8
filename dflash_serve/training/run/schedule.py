"""Learning rate over the whole run, and how far a run has come. Pure Python."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["cosine", "wsd"]
Style = Literal["cosine", "linear", "1-sqrt"]

_EPOCHS = 6
"""Of the published recipe, for 800,000 answers."""
_LEAST_STEPS, _MOST_EPOCHS = 2000, 60
"""A drafter from nothing needs thousands of steps; the same answers more often teach little new."""
DEFAULT_LENGTH = (
    f"{_EPOCHS} epochs, as published; of few answers so many more that they are "
    f"{_LEAST_STEPS:,} steps, at most {_MOST_EPOCHS}"
)
_STYLES: dict[Style, Callable[[float], float]] = {
    "cosine": lambda falling: 0.5 * (1.0 + math.cos(math.pi * falling)),
    "linear": lambda falling: 1.0 - falling,
    "1-sqrt": lambda falling: 1.0 - math.sqrt(falling),
}
"""Share of the peak rate by share of the decay."""
_FIRST = 0.05
"""Share of the peak rate in the first step: a rate of 0 would waste it."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """The length of a run: steps, epochs or minutes. Exactly one is set."""

    steps: int | None = None
    minutes: float | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        given = [part for part in (self.steps, self.minutes, self.epochs) if part is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of steps, epochs and minutes")
        if not 0 < given[0] < math.inf:
            raise ValueError(f"the length of a run is {given[0]}, but must be positive")

    @classmethod
    def default(cls, per_epoch: int) -> "Horizon":
        """`DEFAULT_LENGTH` for a run of which one epoch takes ``per_epoch`` steps."""
        wanted = -(-_LEAST_STEPS // per_epoch)
        return cls(epochs=float(min(_MOST_EPOCHS, max(_EPOCHS, wanted))))

    def in_steps(self, per_epoch: int) -> "Horizon":
        """Epochs as steps, of which one takes ``per_epoch``; others stay as they are."""
        if self.epochs is None:
            return self
        return Horizon(steps=max(1, round(self.epochs * per_epoch)))

    def describe(self, per_epoch: int) -> str:
        """``2,006 steps, 59 epochs of 34``, or ``30 minutes, epochs of 34 steps``."""
        steps = self.in_steps(per_epoch).steps
        if steps is None:
            return f"{self.minutes:g} minutes, epochs of {per_epoch:,} steps"
        return f"{steps:,} steps, {self.epochs or steps / per_epoch:.3g} epochs of {per_epoch:,}"

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is done, 0 to 1, after ``step`` steps and ``seconds``."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        if self.minutes is None:
            raise ValueError("a horizon in epochs must be turned into steps first")
        return min(1.0, seconds / (60.0 * self.minutes))


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate by progress: a linear warm-up, then ``cosine`` or ``wsd`` down to ``minimum``.

    wsd (warm-up, stable, decay; arXiv 2404.06395) holds the peak and falls over the last ``decay``
    of the run in the form of ``style``. ``warmup`` and ``decay`` are shares of the whole run.

    Raises:
        ValueError: rates or shares that make no schedule.
    """

    peak: float
    kind: Kind = "cosine"
    warmup: float = 0.04
    decay: float = 0.2
    minimum: float = 0.0
    style: Style = "cosine"

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.peak:
            raise ValueError(f"a rate of {self.peak} cannot fall to {self.minimum}")
        if self.kind == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warm-up {self.warmup} and decay {self.decay} exceed the run")

    def rate(self, progress: float) -> float:
        """At ``progress`` 0 to 1 of the run; positive at 0, the minimum at 1."""
        if progress < self.warmup:
            return self.peak * (_FIRST + (1 - _FIRST) * progress / self.warmup)
        start = self.warmup if self.kind == "cosine" else 1.0 - self.decay
        falling = min(1.0, max(0.0, progress - start) / (1.0 - start))
        height = _STYLES["cosine" if self.kind == "cosine" else self.style](falling)
        return self.minimum + (self.peak - self.minimum) * height

    def stable(self, progress: float) -> bool:
        """Whether the rate has come to a peak that is held, and does not fall yet."""
        return self.kind == "wsd" and self.warmup <= progress <= 1.0 - self.decay

    def may_grow(self, before: Horizon, now: Horizon, step: int, seconds: float) -> bool:
        """Whether a run can be made longer after ``step`` steps: the rate is held in both."""
        both = (before, now)
        alike = (before.steps is None) == (now.steps is None)
        longer = (now.steps or now.minutes or 0) > (before.steps or before.minutes or 0)
        held = all(self.stable(one.progress(step, seconds)) for one in both)
        return alike and longer and held
