"""Seconds that a round takes, by its rows and width: measured at warm-up, corrected while serving.

Pure Python, no device. Widths are those that the runner pads to; 1 is plain decoding.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from statistics import median

_RECENT = 16
"""Rounds of all kinds that the machine's present speed is taken from."""
_OWN = 48
"""Rounds of one kind that its own share of the correction is taken from."""


@dataclass(frozen=True, slots=True)
class CostPoint:
    """The measured ``seconds`` of a round of ``rows``, each padded to ``width`` tokens.

    Raises:
        ValueError: no round can be so.
    """

    rows: int
    width: int
    seconds: float

    def __post_init__(self) -> None:
        if min(self.rows, self.width) < 1:
            raise ValueError(f"a round of {self.rows} rows, {self.width} wide")
        if not (isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"a round of {self.seconds} seconds")


Kind = tuple[int, int, bool]
"""What a round's time depends on: rows, width, and whether the host sees its drafts."""


class CostTable:
    """What rounds cost here and now.

    Between measured points costs are interpolated, beyond them extrapolated; a round with more rows
    or a wider block never costs less than a smaller one. Rounds that ran correct the table: a
    factor of all kinds follows the machine and the contexts' lengths, and each kind that has run
    has one of its own beside it.

    Raises:
        ValueError: there is no point.
    """

    def __init__(self, points: Iterable[CostPoint]) -> None:
        self.points = tuple(points)
        """As measured."""
        if not self.points:
            raise ValueError("a cost table needs a measured round")
        self._grid = _Grid(self.points)
        self._measured: dict[tuple[int, int], float] = {}
        self._factor = 0.0  # logarithms, from here on
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._own: dict[Kind, deque[float]] = {}
        self._offsets: dict[Kind, float] = {}

    def seconds(self, rows: int, width: int, *, guided: bool = False) -> float:
        """What a round takes now. ``guided``: the host computes masks from its drafts."""
        offset = self._offsets.get((rows, width, guided), 0.0)
        return self._base(rows, width) * exp(self._factor + offset)

    def observe(self, rows: int, width: int, seconds: float, *, guided: bool = False) -> None:
        """Take the time of a round that ran, and of nothing else."""
        if seconds <= 0:
            return
        kind = (rows, width, guided)
        ratio = log(seconds / self._base(rows, width))
        self._recent.append(ratio - self._offsets.get(kind, 0.0))
        self._factor = median(self._recent)
        own = self._own.setdefault(kind, deque(maxlen=_OWN))
        own.append(ratio - self._factor)
        self._offsets[kind] = median(own)

    def _base(self, rows: int, width: int) -> float:
        """As measured at warm-up."""
        if (rows, width) not in self._measured:
            self._measured[rows, width] = self._grid.seconds(rows, width)
        return self._measured[rows, width]


class _Grid:
    """Costs by rows and width, linear between points and beyond them."""

    def __init__(self, points: Sequence[CostPoint]) -> None:
        self._lines: dict[int, _Line] = {}
        for rows in sorted({point.rows for point in points}):
            widths = {point.width: point.seconds for point in points if point.rows == rows}
            self._lines[rows] = _Line(widths)

    def seconds(self, rows: int, width: int) -> float:
        if len(self._lines) == 1:  # other rows cost what as many tokens cost
            ((only, line),) = self._lines.items()
            return line.at(rows * width / only)
        return _Line({count: line.at(width) for count, line in self._lines.items()}).at(rows)


class _Line:
    """A rising curve through (place, height), linear between its points and beyond the last."""

    def __init__(self, points: Mapping[int, float]) -> None:
        self._places = sorted(points)
        self._heights: list[float] = []
        for place in self._places:
            self._heights.append(max([points[place], *self._heights[-1:]]))

    def at(self, place: float) -> float:
        places, heights = self._places, self._heights
        if place <= places[0]:
            return heights[0]
        if len(places) == 1:
            return heights[0] * place / places[0]
        end = min(bisect_left(places, place), len(places) - 1)
        slope = (heights[end] - heights[end - 1]) / (places[end] - places[end - 1])
        return heights[end] + slope * (place - places[end])
