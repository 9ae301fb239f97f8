"""How likely a row's drafts are accepted, depth by depth. Pure Python, no device.

The chance that the draft at a depth is accepted, all before it being so, is a ratio of counts that
decay: the last stretch of a text decides.
"""

from collections.abc import Sequence

_POOL_KEEPS = 0.99
"""What the engine's counts of a depth keep when one more round has tried it."""
_ROW_KEEPS = 0.9
"""What a row's own keep."""
_PRIOR = 0.85
"""The chance at the first depth before anything is known: hopeful, since a few rounds tell."""
_PRIOR_TRIALS = 2.0
"""Trials that a depth's prior counts for: the chance at the depth before it."""
_POOL_TRIALS = 8.0
"""Trials that the engine's counts count for in a row's."""


class _Counts:
    """Decayed trials and hits by depth, the first draft's first."""

    def __init__(self, depths: int, keeps: float) -> None:
        self.trials = [0.0] * depths
        self.hits = [0.0] * depths
        self._keeps = keeps

    def add(self, tried: int, accepted: int) -> None:
        """A round that drafted ``tried`` tokens, of which the first ``accepted`` stayed."""
        trials, hits, keeps = self.trials, self.hits, self._keeps
        for depth in range(tried):
            reached = depth <= accepted
            trials[depth] = trials[depth] * keeps + reached
            hits[depth] = hits[depth] * keeps + (depth < accepted)


class Acceptance:
    """Estimates for the rows of one engine, and the pooled one that new rows begin with.

    ``depths``: the most drafts of a round. Owner of the counts.
    """

    def __init__(self, depths: int) -> None:
        self._depths = depths
        self._pool = _Counts(depths, _POOL_KEEPS)
        self._rows: dict[int, _Counts] = {}
        self._curves: dict[int, Sequence[float]] = {}  # since the counts changed last

    def curve(self, row: int) -> Sequence[float]:
        """Tokens that rounds of ``row`` with blocks of 1, 2, ... are expected to commit."""
        if row not in self._curves:
            self._curves[row] = self._curve(row)
        return self._curves[row]

    def _curve(self, row: int) -> Sequence[float]:
        chances = self._pooled()
        own = self._rows.get(row)
        if own is not None:
            chances = _own_chances(own, chances)
        expected, reached = 1.0, 1.0
        curve = [expected]
        for chance in chances:
            reached *= chance
            expected += reached
            curve.append(expected)
        return curve

    def observe(self, row: int, block: int, committed: int) -> None:
        """A round of ``row`` with drafts ended: ``committed`` of ``block`` tokens, 1 at least."""
        self._curves.clear()
        tried, accepted = min(block - 1, self._depths), committed - 1
        own = self._rows.setdefault(row, _Counts(self._depths, _ROW_KEEPS))
        own.add(tried, accepted)
        self._pool.add(tried, accepted)

    def forget(self, row: int) -> None:
        """``row`` has ended. Its rounds stay in the pooled estimate."""
        self._curves.pop(row, None)
        self._rows.pop(row, None)

    def _pooled(self) -> list[float]:
        """The engine's chances by depth; an untried depth has that of the one before it."""
        chances, chance = [], _PRIOR
        for trials, hits in zip(self._pool.trials, self._pool.hits, strict=True):
            chance = (hits + _PRIOR_TRIALS * chance) / (trials + _PRIOR_TRIALS)
            chances.append(chance)
        return chances


def _own_chances(own: _Counts, pooled: Sequence[float]) -> list[float]:
    """A row's chances by depth: its counts over the pooled chances, shifted to the row's odds.

    The shift is common to all depths, so what shallow drafts show of a row tells of deeper ones.
    """
    expected = sum(trials * chance for trials, chance in zip(own.trials, pooled, strict=True))
    trials, hits = sum(own.trials), sum(own.hits)
    odds = (hits + 1) * (trials - expected + 1) / ((expected + 1) * (trials - hits + 1))
    chances = []
    for depth, chance in enumerate(pooled):
        prior = chance * odds / (chance * odds + 1 - chance)
        count = own.trials[depth] + _POOL_TRIALS
        chances.append((own.hits[depth] + _POOL_TRIALS * prior) / count)
    return chances
