"""Context of plain rounds that the drafter has not been given yet, by row.

A plain round needs no drafter, and writing one token of context at a time costs more than many at
once. So the taps of such rounds are kept until a draft needs them, or until they are many.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from dflash_serve.engine.cache.span import Span

KEPT_TOKENS = 128
"""The most tokens of a row that are kept."""


@dataclass(frozen=True, slots=True)
class Due:
    """Taps [R, width, F] of ``rows``, and where their tokens stand. ``starts``: by row."""

    rows: tuple[int, ...]
    taps: mx.array
    span: Span
    starts: dict[int, int]


@dataclass(slots=True)
class _Stretch:
    """Rounds of the same rows: taps [R, 1, F] of each."""

    rows: tuple[int, ...]
    taps: list[mx.array] = field(default_factory=list)


class DeferredContext:
    """Owner of the taps. Rows leave it with `forget` or all at once with `take`."""

    def __init__(self) -> None:
        self._stretches: list[_Stretch] = []
        self._starts: dict[int, int] = {}
        self._counts: dict[int, int] = {}

    @property
    def full(self) -> bool:
        """Whether a row has as many as are kept."""
        return max(self._counts.values(), default=0) >= KEPT_TOKENS

    def add(self, rows: Sequence[int], lengths: Sequence[int], taps: mx.array) -> None:
        """A plain round of ``rows``, which held ``lengths`` tokens before it; taps [R, 1, F]."""
        numbers = tuple(rows)
        if not self._stretches or self._stretches[-1].rows != numbers:
            self._stretches.append(_Stretch(numbers))
        self._stretches[-1].taps.append(taps)
        for row, length in zip(numbers, lengths, strict=True):
            self._starts.setdefault(row, length)
            self._counts[row] = self._counts.get(row, 0) + 1

    def forget(self, rows: Iterable[int]) -> None:
        """These rows have ended."""
        for row in rows:
            self._starts.pop(row, None)
            self._counts.pop(row, None)
        if not self._starts:
            self._stretches.clear()

    def take(self) -> Due | None:
        """All of it; nothing is left here."""
        if not self._starts:
            return None
        parts: dict[int, list[mx.array]] = {row: [] for row in self._starts}
        for stretch in self._stretches:
            taps = mx.concatenate(stretch.taps, axis=1)
            for index, row in enumerate(stretch.rows):
                if row in parts:
                    parts[row].append(taps[index : index + 1])
        rows, columns = tuple(parts), tuple(self._counts[row] for row in parts)
        width = max(columns)
        offsets = mx.array([self._starts[row] for row in rows], dtype=mx.int32)
        span = Span(offsets, mx.array(columns, dtype=mx.int32), width, columns)
        due = Due(rows, _stacked(parts.values(), width), span, self._starts)
        self._stretches, self._starts, self._counts = [], {}, {}
        return due


def _stacked(rows: Iterable[Sequence[mx.array]], width: int) -> mx.array:
    """Each row's taps one behind the other, and zeros up to ``width``."""
    joined = [mx.concatenate(list(parts), axis=1) for parts in rows]
    padded = [mx.pad(row, [(0, 0), (0, width - row.shape[1]), (0, 0)]) for row in joined]
    return mx.concatenate(padded, axis=0)
