"""How wide the next round is: what commits the most tokens per second here. Pure Python, no device.

Width 1 is plain decoding. A few cheap probes keep the estimates of other widths alive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from dflash_serve.engine.acceptance import Acceptance
from dflash_serve.engine.cost_table import CostTable

_GAIN = 1.015
"""How much faster another width must promise to be than the one that runs."""
_SHARE = 0.005
"""Of the time that wider probes may lose, and as much again that narrower ones may."""
_KEEPS = 0.999
"""What the times of the past keep in that share when one more round ran."""
_FIRST, _LAST = 8, 128
"""Rounds between two probes: at first, and at most; each one that changes nothing doubles them."""
_UNTIMED = 4
"""Rounds of one probe at most, while they are not timed."""


@dataclass(frozen=True, slots=True)
class RowLimit:
    """A row of the next round, and the longest ``block`` that it can use."""

    row: int
    block: int


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What a round did for a row: it committed 1 to ``block`` tokens."""

    row: int
    block: int
    committed: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The next round: the ``width`` that its rows are padded to, a row's block being the smaller of
    that and its limit. ``nodes``: of trees, as in `StepPlan`.
    """

    width: int
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """A round that ran.

    ``seconds``: None if they are not its own alone, or its graph's first ones. ``nodes``: of the
    trees that ran. ``guided``: as in `CostTable`.
    """

    width: int
    rows: tuple[RowOutcome, ...]
    seconds: float | None
    nodes: int = 0
    guided: bool = False


class RoundPolicy(Protocol):
    """Chooses the shape of rounds, and learns from those that ran."""

    def choose(self, rows: Sequence[RowLimit], *, guided: bool = False) -> Choice:
        """The next round of ``rows``, at least one. ``guided``: as in `CostTable`."""
        ...

    def observe(self, ran: RoundOutcome) -> None:
        """Learn from the round that was chosen last."""
        ...

    def forget(self, row: int) -> None:
        """``row`` has ended."""
        ...


class FixedBlocks:
    """Every round is ``block_size`` wide, whatever it costs."""

    def __init__(self, block_size: int) -> None:
        self._choice = Choice(block_size)

    def choose(self, rows: Sequence[RowLimit], *, guided: bool = False) -> Choice:
        return self._choice

    def observe(self, ran: RoundOutcome) -> None:
        pass

    def forget(self, row: int) -> None:
        pass


def widths_to(block_size: int) -> tuple[int, ...]:
    """1, 2, 4, ... and ``block_size``: what a runner pads to."""
    powers = (1 << power for power in range(block_size.bit_length()))
    return tuple(dict.fromkeys([*(power for power in powers if power < block_size), block_size]))


class BlockPolicy:
    """Chooses the width of each round of an engine whose blocks are at most ``block_size`` long.

    ``table`` is what rounds cost; the policy corrects it by the rounds that it is told of. The same
    calls give the same choices.
    """

    def __init__(self, block_size: int, table: CostTable) -> None:
        self.table = table
        self._widths = widths_to(block_size)
        self._acceptance = Acceptance(block_size - 1)
        self._width = block_size  # what runs unless another gains enough
        self._rate = 0.0  # tokens per second that it promises
        self._known: set[int] = set()
        self._probes = _Probes()

    def choose(self, rows: Sequence[RowLimit], *, guided: bool = False) -> Choice:
        """The next round of ``rows``, at least one. ``guided``: as in `CostTable`."""
        if not self._known.issuperset(row.row for row in rows):
            self._known.update(row.row for row in rows)
            self._probes.hasten()  # a new text may be another matter
        longest = max(row.block for row in rows)
        widths = [width for width in self._widths if width == 1 or width < 2 * longest]
        seconds = self._seconds(len(rows), widths, guided)
        rates = self._rates(rows, seconds)
        best = max(widths, key=lambda width: rates[width])
        if rates.get(self._width, 0.0) * _GAIN >= rates[best]:
            best = self._width
        self._rate = rates[best]
        if len(widths) < len(self._widths):  # the end of a text says nothing of the next one
            return Choice(best)
        if best != self._width:
            self._width = best
            self._probes.hasten()
        losses = {w: seconds[w] * (1 - rates[w] / self._rate) for w in widths}
        return Choice(self._probes.next(best, losses) or best)

    def observe(self, ran: RoundOutcome) -> None:
        """Learn from the round that was chosen last."""
        rows, width = len(ran.rows), ran.width
        committed = 0
        for row in ran.rows:
            committed += row.committed
            if row.block > 1:
                self._acceptance.observe(row.row, row.block, row.committed)
        if ran.seconds is not None:
            self.table.observe(rows, width, ran.seconds, guided=ran.guided)
        took = ran.seconds or self.table.seconds(rows, width, guided=ran.guided)
        lost = took - committed / self._rate if self._rate else 0.0
        self._probes.ran(width, took, lost, timed=ran.seconds is not None)

    def forget(self, row: int) -> None:
        """``row`` has ended."""
        self._known.discard(row)
        self._acceptance.forget(row)

    def _seconds(self, rows: int, widths: Sequence[int], guided: bool) -> dict[int, float]:
        """What rounds take by width: a narrower one never more than a wider one."""
        seconds: dict[int, float] = {}
        least = inf
        for width in reversed(widths):
            least = min(least, self.table.seconds(rows, width, guided=guided))
            seconds[width] = least
        return seconds

    def _rates(self, rows: Sequence[RowLimit], seconds: Mapping[int, float]) -> dict[int, float]:
        """Tokens per second that rounds of ``rows`` promise, by width."""
        tokens = dict.fromkeys(seconds, 0.0)
        for row in rows:
            curve = self._acceptance.curve(row.row)
            for width in seconds:
                tokens[width] += curve[min(width, row.block) - 1]
        return {width: tokens[width] / seconds[width] for width in seconds}


class _Probes:
    """When a round is not the best one known, to learn of another: a wider one shows what deeper
    drafts are worth, a narrower one what it costs now.
    """

    def __init__(self) -> None:
        self._interval = _FIRST
        self._rounds = 0  # since the last probe
        self._turn = 0
        self._width = 0  # of the last probe
        self._left = 0  # rounds that it may still take
        self._seconds = 0.0  # of all rounds, decayed
        self._lost = {True: 0.0, False: 0.0}  # of these, by wider probes and by narrower ones
        self._wider = True  # the last probe

    def hasten(self) -> None:
        """Probe soon."""
        self._interval = _FIRST

    def next(self, best: int, losses: Mapping[int, float]) -> int:
        """The width of a probe that is due and can be paid for, 0 if none is.

        ``losses``: seconds that a round of each width is expected to lose.
        """
        if self._left > 0 and self._width in losses and self._width != best:
            return self._width
        self._left = 0
        if self._rounds < self._interval:
            return 0
        widths = sorted(losses)
        place = widths.index(best)
        beside = widths[place + 1 : place + 2] + widths[max(place - 1, 0) : place]
        if not beside:
            return 0
        width = beside[self._turn % len(beside)]
        wider = width > best
        rounds = 1 if wider else _UNTIMED
        self._turn += 1
        if self._lost[wider] + rounds * losses[width] > _SHARE * self._seconds:
            return 0
        self._wider = wider
        self._rounds = 0
        self._interval = min(2 * self._interval, _LAST)
        self._width, self._left = width, rounds
        return width

    def ran(self, width: int, seconds: float, lost: float, *, timed: bool) -> None:
        """A round ran and lost so many seconds against the best one known."""
        self._rounds += 1
        self._seconds = self._seconds * _KEEPS + seconds
        for wider in self._lost:
            self._lost[wider] *= _KEEPS
        if width != self._width or self._left == 0:
            return
        self._lost[self._wider] += max(lost, 0.0)
        self._left = 0 if timed else self._left - 1
        if lost <= 0:
            self._interval = 1  # better than was thought: go on
