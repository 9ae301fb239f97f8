"""What is kept on the host of a row that asks for something, and rows that begin anew."""

import numpy as np
import pytest

from dflash_serve.engine.constraint import Walk
from dflash_serve.engine.grammar import from_regex
from dflash_serve.engine.plan import DecodeRow, OpenedRow, PrefillRow, RowSpec
from dflash_serve.engine.row_state import RowStates
from dflash_serve.engine.types import LogitRules, SamplingParams, ThinkingRule
from tests.engine.letters import END, THINK, THOUGHT, VOCAB, compiler, ids

STOPS = frozenset([END])
SAMPLING = SamplingParams()
PROMPT = (3, 4, 4)


def prefill(row: int, tokens: tuple[int, ...]) -> PrefillRow:
    return PrefillRow(row, 0, tokens, True, SAMPLING)


def decode(row: int, length: int) -> DecodeRow:
    return DecodeRow(row, length, 0, 4, SAMPLING)


@pytest.mark.parametrize(
    "generated",
    [(), tuple(ids("ab")), (THINK, *ids("cc")), (THINK, *ids("c"), THOUGHT, *ids("ab"))],
)
def test_a_row_that_begins_anew_stands_where_it_stood(generated: tuple[int, ...]) -> None:
    """Row 1 generated its tokens here, row 2 was opened with them; so do both go on."""
    spec = RowSpec(
        LogitRules(frequency=0.5, repetition=1.3, min_tokens=6),
        STOPS,
        grammar=compiler().compile(from_regex("a[bc]{3,9}d?")),
        thinking=ThinkingRule((THOUGHT,), (THINK,), budget=5),
    )
    states = RowStates(VOCAB)
    states.update((), [OpenedRow(1, spec), OpenedRow(2, spec, generated)])
    states.read(prefill(1, PROMPT))
    states.read(prefill(2, PROMPT + generated))
    live, again = states.get(1), states.get(2)
    assert live is not None
    assert again is not None
    for token in generated:
        assert live.commit((token,)) == 1
    for _ in range(3):
        assert live.generated == again.generated
        assert live.table is not None
        assert again.table is not None
        table = dict(zip(live.table.ids.tolist(), live.table.values.tolist(), strict=True))
        assert table == dict(
            zip(again.table.ids.tolist(), again.table.values.tolist(), strict=True)
        )
        draft = ids("bcb")
        walks = [states.walk(decode(row, 10), draft) for row in (1, 2)]
        first, second = walks
        assert isinstance(first, Walk)
        assert isinstance(second, Walk)
        assert first.tokens == second.tokens
        assert np.array_equal(first.masks, second.masks)
        for state in (live, again):
            state.commit(first.tokens[:1] or tuple(ids("a")))


def test_rows_are_kept_from_their_opening_to_their_end() -> None:
    states = RowStates(VOCAB)
    spec = RowSpec(LogitRules(presence=1.0), STOPS)
    states.update((), [OpenedRow(1, spec), OpenedRow(2, spec)])
    states.update((1, 7), [OpenedRow(3, spec)])
    assert (len(states), states.get(1)) == (2, None)
    assert states.choice_row(decode(1, 5), 6).rules is None
    assert states.choice_row(decode(3, 5), 6).rules == spec.rules
