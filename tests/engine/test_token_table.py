"""What a row remembers of its tokens."""

from dflash_serve.engine.token_table import BANNED_UNTIL, BIAS, COUNT, SEEN, TokenTable
from dflash_serve.engine.types import LogitRules


def entries(table: TokenTable) -> dict[int, list[float]]:
    return dict(zip(table.ids.tolist(), table.values.tolist(), strict=True))


def test_every_token_has_one_entry_with_all_that_is_known_of_it() -> None:
    rules = LogitRules(((7, 2.5), (9, -1.0)), presence=1.0, repetition=1.2, min_tokens=3)
    table = TokenTable(rules, frozenset([9]))
    table.read([1, 7, 1])
    table.commit([1, 4, 1])
    found = entries(table)
    assert sorted(table.ids.tolist()) == [1, 4, 7, 9]
    assert found[7][BIAS] == 2.5
    assert found[9][BIAS] == -1.0
    assert found[9][BANNED_UNTIL] == 3.0
    assert [found[t][COUNT] for t in (1, 4, 7, 9)] == [2, 1, 0, 0]
    assert [found[t][SEEN] for t in (1, 4, 7, 9)] == [1, 1, 1, 0]


def test_the_prompt_counts_for_repetition_alone() -> None:
    table = TokenTable(LogitRules(presence=1.0), frozenset())
    table.read([1, 2, 3])
    assert table.ids.size == 0


def test_tokens_that_change_nothing_take_no_room() -> None:
    table = TokenTable(LogitRules(((5, 1.0),)), frozenset([0]))
    table.commit(range(1000))
    assert table.ids.tolist() == [5]


def test_a_table_grows_with_its_distinct_tokens() -> None:
    table = TokenTable(LogitRules(frequency=1.0), frozenset())
    for token in range(300):
        table.commit([token, 7])
    found = entries(table)
    assert len(found) == 300
    assert found[7][COUNT] == 301
    assert all(found[token][COUNT] == 1 for token in range(300) if token != 7)
