"""Whose tokens are prefilled in the next step, and how many of them. Pure Python, no device.

A step's prefill chunk is one forward over rows that are padded to the widest of them.
"""

from collections.abc import Iterable

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.sequence import Sequence

LEAST_CHUNK = 64
"""Tokens of the smallest chunk: smaller ones are mostly overhead."""
SWAP_STALL = 0.08
"""Seconds that a chunk may add to a step while rows are shown to a new drafter: what a swap costs
streams is to stay below 0.1 s."""
_STEP = 16
"""Between sizes of chunks."""
_NEWEST = 0.5
"""Weight of the newest observation in an estimate."""


class PrefillTurns:
    """Which rows share the next chunk. Owner of whose turn it is.

    The row with the fewest tokens to process comes first, so that a short prompt does not wait for
    a long one. A chunk that leaves the oldest row out is followed by one that begins with it: the
    oldest gets at least every other chunk, and no row waits for ever.
    """

    def __init__(self) -> None:
        self._owed = False

    def pick(self, rows: Iterable[Sequence], budget: int) -> tuple[list[Sequence], int]:
        """Which of ``rows``, oldest first, share the next chunk, and the most tokens of each.

        Rows x padded length stay within ``budget``. All of them are prefilled, or all are shown to
        a new drafter.
        """
        pending = [row for row in rows if row.due]
        if not pending:
            return [], 0
        oldest = pending[0]
        first = oldest if self._owed else min(pending, key=lambda row: len(row.due))
        shown = first.missed > 0
        alike = [row for row in pending if row is not first and (row.missed > 0) == shown]
        picked, width = [first], min(len(first.due), budget)
        for row in sorted(alike, key=lambda row: len(row.due)):
            wider = max(width, min(len(row.due), budget))
            if (len(picked) + 1) * wider > budget:
                break
            picked.append(row)
            width = wider
        self._owed = oldest not in picked
        return picked, width


class ChunkBudget:
    """How many tokens a chunk may have so that a step takes ``config.max_stall`` seconds at most.

    Learns from the steps so far what a token costs and what a round costs beside it. Owner of these
    two estimates.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._largest = config.prefill_chunk
        self._least = min(LEAST_CHUNK, config.prefill_chunk)
        self._max_stall = config.max_stall
        self._token: float | None = None
        self._round: float | None = None

    def tokens(self, decoding: int, rows: int, swapped: bool = False) -> int:
        """Rows x padded length of the next chunk, beside ``decoding`` of ``rows`` rows in a round.

        A row that is alone holds nobody up: it gets the largest chunk. ``swapped``: some row is
        still to be shown to a new drafter.
        """
        if rows == 1 and not decoding:
            return self._largest
        if self._token is None:
            return self._least if decoding else self._largest
        room = self._max_stall - (self._round or 0.0 if decoding else 0.0)
        if swapped:
            room = min(room, SWAP_STALL)
        if room <= self._least * self._token:
            return self._least
        if room >= self._largest * self._token:
            return self._largest
        return int(room / self._token) // _STEP * _STEP

    def observe(self, seconds: float, tokens: int, decoding: int) -> None:
        """A step took ``seconds``: a chunk of ``tokens``, 0 for none, and a round if any decode.

        A round's estimate follows the fastest ones: a slow one may have compiled its graph. What
        a step takes beyond it counts as the chunk's. Chunks below the least say nothing about
        the cost of a token.
        """
        if decoding:
            self._observe_round(seconds, alone=not tokens)
        if tokens < self._least:
            return
        spent = seconds - (self._round or 0.0 if decoding else 0.0)
        cost = max(0.0, spent) / tokens
        self._token = cost if self._token is None else _mixed(self._token, cost)

    def _observe_round(self, seconds: float, alone: bool) -> None:
        if self._round is None:
            self._round = seconds if alone else None
        elif seconds < self._round:
            self._round = seconds
        elif alone:
            self._round = _mixed(self._round, seconds)


def _mixed(estimate: float, seen: float) -> float:
    return estimate + _NEWEST * (seen - estimate)
