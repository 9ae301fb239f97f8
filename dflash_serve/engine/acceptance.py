"""How likely a row's drafts are accepted, depth by depth. Pure Python, no device.

The chance that the draft at depth d is accepted where all before it were is a ratio of counts that
decay, so that the text's last stretch decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_POOL_KEEPS = 0.995
"""What the engine's counts keep when another row's round is counted."""
_ROW_KEEPS = 0.9
"""What a row's counts keep when its next round is counted."""
_PRIOR = 0.7
"""The chance at every depth before anything is known, as of ``_PRIOR_TRIALS`` trials."""
_PRIOR_TRIALS = 2.0
_POOL_TRIALS = 3.0
"""Trials that the engine's estimate counts for in a row's."""


@dataclass(slots=True)
class _Counts:
    """Decayed trials and successes by depth, the first draft's first."""

    trials: list[float]
    hits: list[float]

    @classmethod
    def of(cls, depths: int) -> "_Counts":
        return cls([0.0] * depths, [0.0] * depths)

    def add(self, tried: int, accepted: int, keeps: float) -> None:
        """A round that drafted ``tried`` tokens, of which the first ``accepted`` stayed."""
        for depth in range(min(accepted + 1, tried)):
            self.trials[depth] = self.trials[depth] * keeps + 1.0
            self.hits[depth] = self.hits[depth] * keeps + (depth < accepted)


class Acceptance:
    """Estimates for the rows of one engine, and the pooled one that new rows begin with.

    ``depths``: the most drafts of a round. Owner of the counts.
    """

    def __init__(self, depths: int) -> None:
        self._depths = depths
        self._pool = _Counts.of(depths)
        self._rows: dict[int, _Counts] = {}

    def expected(self, row: int, block: int) -> float:
        """Tokens that a round with a block of ``block`` is expected to commit, at least 1."""
        return self.curve(row)[min(block, self._depths + 1) - 1]

    def curve(self, row: int) -> Sequence[float]:
        """`expected` of blocks 1, 2, ... of ``row``."""
        raise NotImplementedError

    def observe(self, row: int, block: int, committed: int) -> None:
        """A round of ``row`` with drafts ended: ``committed`` of ``block`` tokens, 1 at least."""
        raise NotImplementedError

    def forget(self, row: int) -> None:
        """``row`` has ended. Its rounds stay in the pooled estimate."""
        self._rows.pop(row, None)
