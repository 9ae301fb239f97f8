"""Learning rate over the whole run, and how far a run has come. Pure Python."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Horizon:
    """The length of a run: a number of steps, or a number of minutes. Exactly one is set."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either steps or minutes")
        if (self.steps or self.minutes or 0) <= 0:
            raise ValueError("a run must have a positive length")

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is done, 0 to 1, after ``step`` steps and ``seconds``."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.minutes is not None
        return min(1.0, seconds / (60.0 * self.minutes))


def learning_rate(peak: float, warmup: float, progress: float) -> float:
    """Linear warm-up over the share ``warmup`` of the run, then a cosine to 0 at its end."""
    if progress < warmup:
        return peak * (0.05 + 0.95 * progress / warmup)
    rest = (progress - warmup) / (1.0 - warmup)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, rest)))
