"""Plain rounds, chains or trees: whichever commits the most tokens per second. Pure Python."""

from collections import deque
from collections.abc import Sequence
from statistics import mean, median

from dflash_serve.engine.block_policy import Choice, RoundOutcome, RowLimit

_RECENT = 24
"""Rounds of one kind that its rate is taken from."""
_ENOUGH = 8
"""Rounds of a kind after which it may be passed over."""
_PROBE_EVERY = 64
"""Rounds between two probes, which take the kinds in turn."""


class RoundKinds:
    """A `RoundPolicy` that judges kinds of round by those that ran, by the number of rows.

    Each kind is tried for a few rounds, then the best one runs and the others are probed now and
    then. ``trees``: their nodes, 0 being a chain, in blocks of ``block_size``; ``plain``: rounds
    without drafts are a kind too. Without a choice nothing is kept.
    """

    def __init__(self, block_size: int, trees: Sequence[int], *, plain: bool) -> None:
        self._kinds = [Choice(block_size, nodes) for nodes in trees]
        if plain and block_size > 1:
            self._kinds.append(Choice(1))
        self._rates: dict[tuple[int, Choice], deque[tuple[int, float]]] = {}
        self._rounds: dict[int, int] = {}

    def choose(self, rows: Sequence[RowLimit], *, guided: bool = False) -> Choice:
        """The next round; a guided one has no tree."""
        if max(row.block for row in rows) == 1:
            return Choice(1)
        kinds = [kind for kind in self._kinds if not (guided and kind.nodes)]
        kinds = kinds or [Choice(self._kinds[0].width)]
        if len(kinds) == 1:
            return kinds[0]
        count = len(rows)
        turn = self._rounds[count] = self._rounds.get(count, 0) + 1
        young = [kind for kind in kinds if len(self._of(count, kind)) < _ENOUGH]
        if young:
            return young[0]
        best = max(kinds, key=lambda kind: self._rate(count, kind))
        probe, due = divmod(turn, _PROBE_EVERY)
        return best if due else kinds[probe % len(kinds)]

    def observe(self, ran: RoundOutcome) -> None:
        """Count a round that ran by itself, and was as a kind is."""
        if len(self._kinds) == 1 or ran.seconds is None or ran.guided:
            return
        if ran.width > 1 and all(row.block == 1 for row in ran.rows):
            return
        tokens = sum(row.committed for row in ran.rows)
        kind = Choice(ran.width, ran.nodes)
        self._of(len(ran.rows), kind).append((tokens, ran.seconds))

    def forget(self, row: int) -> None:
        """Nothing is kept of single rows."""

    def _of(self, rows: int, kind: Choice) -> deque[tuple[int, float]]:
        return self._rates.setdefault((rows, kind), deque(maxlen=_RECENT))

    def _rate(self, rows: int, kind: Choice) -> float:
        """Mean tokens over the median time, which a busy moment leaves alone."""
        recent = self._of(rows, kind)
        return mean(tokens for tokens, _ in recent) / max(median(time for _, time in recent), 1e-9)
