"""How sure a mean over responses is: a bootstrap over the conversations that they are from.

Whole conversations are drawn with replacement, since turns of one chat resemble each other. The
draws are the same in every run.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_serve.measure.figures import RoundCount

LEVEL = 0.95
_RESAMPLES, _SEED = 2000, 0

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """Holds the middle ``level`` of a figure's values over ``resamples`` draws."""

    low: float
    high: float
    level: float = LEVEL
    resamples: int = _RESAMPLES

    def __str__(self) -> str:
        return f"{self.low:.2f} to {self.high:.2f}"


def conversation_sums(
    responses: Sequence[RoundCount],
    names: Sequence[Hashable],
    order: Sequence[Hashable] | None = None,
) -> Sums:
    """[2, conversations]: the sum of each one's tokens per round, and its responses with rounds.

    ``names`` are those of the responses' conversations; ``order`` of all, if there are others.
    """
    index = {name: at for at, name in enumerate(dict.fromkeys(names if order is None else order))}
    sums = np.zeros((2, len(index)))
    for response, name in zip(responses, names, strict=True):
        if response.rounds:
            sums[:, index[name]] += response.mean, 1
    return sums


def ratio_interval(above: Sums, below: Sums) -> Interval | None:
    """Of the ratio of both sums over conversations [C]; None where there are less than two.

    Conversations of which there is nothing below do not count.
    """
    both = np.stack([above, below])[:, below > 0]
    count = both.shape[1]
    if count < 2:
        return None
    rng, even = np.random.default_rng(_SEED), np.full(count, 1 / count)
    drawn = np.array([both @ rng.multinomial(count, even) for _ in range(_RESAMPLES)])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [tail, 1 - tail])
    return Interval(float(low), float(high))


def mean_interval(responses: Sequence[RoundCount], names: Sequence[Hashable]) -> Interval | None:
    """Of tokens per round, the mean over ``responses`` to conversations with ``names``."""
    return ratio_interval(*conversation_sums(responses, names))
