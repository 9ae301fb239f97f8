"""What the runner keeps on the host of rows that ask for more than argmax or a keyed draw.

Knows no slots and no device arrays. Rows are known by the number that plans give them.
"""

from collections.abc import Iterable, Sequence

from dflash_serve.engine.choice import ChoiceRow
from dflash_serve.engine.constraint import Constraint, ConstraintError, Walk
from dflash_serve.engine.grammar import Grammar
from dflash_serve.engine.plan import DecodeRow, OpenedRow, PrefillRow, RowSpec
from dflash_serve.engine.token_table import TokenTable


class RowState:
    """One row: its token table, its constraint, the number of tokens generated."""

    def __init__(self, spec: RowSpec, vocab_size: int) -> None:
        self.spec = spec
        self.generated = 0
        neutral = spec.rules.neutral
        self.table = None if neutral else TokenTable(spec.rules, spec.stop_tokens)
        self.constraint: Constraint | None = None
        if spec.grammar is not None or spec.thinking is not None:
            assert spec.grammar is None or isinstance(spec.grammar, Grammar)
            self.constraint = Constraint(spec.grammar, spec.thinking, spec.stop_tokens, vocab_size)

    def commit(self, tokens: Sequence[int]) -> int:
        """Take chosen tokens; how many of them count, at least one.

        Raises:
            ConstraintError: the row cannot go on.
        """
        kept = len(tokens) if self.constraint is None else self.constraint.commit(tokens)
        self.generated += kept
        if self.table is not None:
            self.table.commit(tokens[:kept])
        return kept


class RowStates:
    """The states of all rows that have a spec. Owner of them."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._states: dict[int, RowState] = {}

    def update(self, closed: Iterable[int], opened: Iterable[OpenedRow]) -> None:
        for row in closed:
            self._states.pop(row, None)
        for begun in opened:
            state = self._states[begun.row] = RowState(begun.spec, self._vocab_size)
            for token in begun.generated:
                state.commit((token,))

    def read(self, row: PrefillRow) -> None:
        """Tokens of a row's prompt that were processed."""
        state = self.get(row.row)
        if state is not None and state.table is not None:
            state.table.read(row.tokens)

    def get(self, row: int) -> RowState | None:
        return self._states.get(row)

    def __len__(self) -> int:
        return len(self._states)

    def needs_host(self, rows: Iterable[DecodeRow]) -> bool:
        """Whether some row's masks depend on its draft."""
        return any(
            state.constraint is not None and not state.constraint.foresees(row.block)
            for row in rows
            if (state := self.get(row.row)) is not None
        )

    def constrained(self, rows: Iterable[DecodeRow]) -> bool:
        """Whether some row has a constraint, which may take fewer tokens than were accepted."""
        states = (self.get(row.row) for row in rows)
        return any(state is not None and state.constraint is not None for state in states)

    def walk(self, row: PrefillRow | DecodeRow, draft: Sequence[int]) -> Walk | str | None:
        """How far ``draft`` may go; None where the row is free, a text where it cannot go on."""
        state = self.get(row.row)
        if state is None or state.constraint is None:
            return None
        if state.constraint.foresees(len(draft) + 1):
            return self.foreseen(row, len(draft) + 1)
        try:
            return state.constraint.walk(draft)
        except ConstraintError as error:
            return str(error)

    def foreseen(self, row: PrefillRow | DecodeRow, width: int) -> Walk | None:
        """The masks of a row that do not depend on its draft; None where everything is allowed."""
        state = self.get(row.row)
        masks = None if state is None or not state.constraint else state.constraint.foreseen(width)
        return None if masks is None else Walk((), masks)

    def choice_row(
        self, row: PrefillRow | DecodeRow, position: int, walk: Walk | str | None = None
    ) -> ChoiceRow:
        """What choosing tokens for ``row`` from ``position`` on takes."""
        state = self.get(row.row)
        masks = walk.masks if isinstance(walk, Walk) else None
        if state is None:
            return ChoiceRow(row.sampling, position, masks=masks)
        rules = state.spec.rules if state.table is not None else None
        return ChoiceRow(row.sampling, position, state.generated, rules, state.table, masks)
