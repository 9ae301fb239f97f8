"""A runner without a device: what the caches of each row would hold, checked against every plan."""

import random
from collections.abc import Callable

from dflash_serve.engine.plan import ContextRow, DecodeRow, PrefillRow, StepPlan, StepResult
from tests.engine.results import step_result

TOKENS = 12


class RowModel:
    """Holds tokens by row number. ``text(first)`` is all of the row whose first token is ``first``.

    ``row_bytes`` prices what is allocated; ``specs`` are the first tokens of rows that have a spec.
    ``ended`` are the numbers of rows that ended since the last reset and were told so.
    """

    def __init__(
        self, text: Callable[[int], list[int]], row_bytes: Callable[[int], int], block: int
    ) -> None:
        self.specs: set[int] = set()
        self.rows: dict[int, list[int]] = {}
        self.block = block
        self._text = text
        self._row_bytes = row_bytes
        self._room: dict[int, int] = {}
        self._used: set[int] = set()  # numbers that were ever planned
        self._missed: dict[int, range] = {}  # what the drafter has no context of, after a swap

    @property
    def nbytes(self) -> int:
        return sum(self._row_bytes(room) for room in self._room.values())

    def reset(self) -> None:
        self.rows.clear()
        self._room.clear()
        self._missed.clear()

    def swap(self, block: int, row_bytes: Callable[[int], int]) -> None:
        self.block = block
        self._row_bytes = row_bytes
        held = self.rows.items() if block > 1 else ()
        self._missed = {row: range(len(tokens)) for row, tokens in held}

    def run(self, plan: StepPlan, rng: random.Random) -> StepResult:
        for row in plan.closed:
            del self.rows[row], self._room[row]  # known, and so told once
            self._missed.pop(row, None)
        assert not (plan.context and plan.prefill)
        for shown in plan.context:
            self._show(shown)
        self._open(plan)
        for prefill in plan.prefill:
            self._prefill(prefill)
        committed = [self._round(row, rng) for row in plan.decode]
        return step_result([rng.randrange(TOKENS) for _ in plan.prefill], committed)

    def _open(self, plan: StepPlan) -> None:
        begun = {row.row: row.tokens[0] for row in plan.prefill if row.start == 0}
        assert not begun.keys() & self._used, "a number is never used again"
        assert {row.row for row in plan.opened} == {
            row for row, first in begun.items() if first in self.specs
        }
        for row in plan.opened:
            text = self._text(begun[row.row])
            assert row.generated == tuple(text[len(text) - len(row.generated) :])
        self._used |= begun.keys()
        self.rows |= {row: [] for row in begun}

    def _prefill(self, row: PrefillRow) -> None:
        held = self.rows[row.row]
        assert len(held) == row.start
        held.extend(row.tokens)
        text = self._text(held[0])
        known = text[: len(held) + 1]
        assert known[: len(held)] == held
        assert row.last == (len(text) == len(held))
        assert row.following == (-1 if row.last else known[-1])
        self._reserve(row.row, len(held))

    def _show(self, row: ContextRow) -> None:
        missed = self._missed[row.row]
        assert row.start == missed.start
        end = row.start + len(row.tokens)
        assert tuple(self.rows[row.row][row.start : end]) == row.tokens
        self._missed[row.row] = range(end, missed.stop)

    def _round(self, row: DecodeRow, rng: random.Random) -> tuple[int, ...]:
        held = self.rows[row.row]
        assert len(held) == row.length, "cache length == committed length"
        assert [*held, row.anchor] == self._text(held[0]), "the row's own tokens"
        assert 1 <= row.block <= (1 if self._missed.get(row.row) else self.block)
        self._reserve(row.row, row.length + self.block)  # padded to the widest
        tokens = tuple(rng.randrange(TOKENS) for _ in range(rng.randint(1, row.block)))
        held += [row.anchor, *tokens[:-1]]
        if missed := self._missed.get(row.row):  # written before older ones: to be shown again
            self._missed[row.row] = range(missed.start, len(held))
        return tokens

    def _reserve(self, row: int, tokens: int) -> None:
        self._room[row] = max(tokens, self._room.get(row, 0))
