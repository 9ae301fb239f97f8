"""When a loss has exploded: judged by the losses before it. Pure Python."""

import math
from statistics import median

_REMEMBERED = 128  # losses that make up the running median
_ENOUGH = 32  # before that the median says nothing
_PERSISTENT = 8  # steps: one odd batch is no explosion
_TIMES = 3.0
_HARMLESS = 1.0  # nats: below it nothing has exploded, whatever the median was


class Diverged(Exception):
    """A run whose loss has exploded or is not a number; names the step and the last checkpoint."""


class LossGuard:
    """Owns the last losses of a run, oldest first; ``losses`` is what a checkpoint keeps."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = list(losses)

    def see(self, loss: float) -> None:
        self.losses.append(loss)
        del self.losses[: -(_REMEMBERED + _PERSISTENT)]

    @property
    def calm(self) -> bool:
        """Whether the last loss is usual: a state behind an unusual one is no good checkpoint."""
        return not self.losses or self.losses[-1] <= self._limit()

    @property
    def exploded(self) -> bool:
        """Whether each of the last steps lost far more than the running median."""
        return min(self.losses[-_PERSISTENT:], default=0.0) > self._limit()

    def _limit(self) -> float:
        before = self.losses[:-_PERSISTENT]
        if len(before) < _ENOUGH:
            return math.inf
        return max(_HARMLESS, _TIMES * median(before))
