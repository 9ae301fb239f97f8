"""One row's constraint: masks along a draft, forced tokens, reasoning and its budget."""

import numpy as np
import pytest

from dflash_serve.engine.constraint import Constraint
from dflash_serve.engine.grammar import from_choices, from_lark, from_regex
from dflash_serve.engine.types import ThinkingRule
from tests.engine.letters import END, THINK, THOUGHT, VOCAB, compiler, ids, text_of

STOPS = frozenset([END])


def constraint(source: str | None, thinking: ThinkingRule | None = None) -> Constraint:
    grammar = None if source is None else compiler().compile(source)
    return Constraint(grammar, thinking, STOPS, VOCAB)


def allowed(mask: np.ndarray) -> set[int]:
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return {token for token in range(VOCAB) if bits[token]}


def test_masks_follow_the_draft_and_leave_the_state_alone() -> None:
    row = constraint(from_regex("ab[cd]e"))
    draft = ids("abde")
    for _ in range(2):
        walk = row.walk(draft)
        assert walk.tokens == tuple(draft)
        assert [allowed(mask) for mask in walk.masks] == [
            {ids("a")[0]},
            {ids("b")[0]},
            {*ids("c"), *ids("d")},
            {ids("e")[0]},
            {END},
        ]


def test_a_draft_that_leaves_the_grammar_ends_there() -> None:
    row = constraint(from_regex("[ab][cd][ef]"))
    walk = row.walk(ids("axce"))
    assert text_of(walk.tokens) == "a"
    assert allowed(walk.masks[-1]) == {*ids("c"), *ids("d")}
    assert len(walk.masks) == 2


def test_forced_tokens_become_drafts() -> None:
    row = constraint(from_lark('start: ("xz" | "yb") "-name-null"'))
    wrong = ids("xbbbbbbb")
    forced = row.walk(wrong)
    assert len(forced.tokens) == len(wrong)
    assert "xz-name-null".startswith(text_of(forced.tokens))
    assert text_of(row.walk([ids("y")[0], 5, 5]).tokens) == "yb-"


def test_a_whole_text_may_only_end() -> None:
    row = constraint(from_choices(["ab"]))
    assert row.commit(ids("ab")) == 2
    walk = row.walk(ids("cd"))
    assert walk.tokens == ()
    assert allowed(walk.masks[0]) == {END}
    assert row.commit([END]) == 1


def test_no_draft_goes_beyond_the_end() -> None:
    row = constraint(from_regex("a*"))
    walk = row.walk([*ids("aa"), END, *ids("a")])
    assert text_of(walk.tokens) == "aa"
    assert END in allowed(walk.masks[-1])


def test_without_grammar_and_budget_everything_is_free() -> None:
    row = constraint(None, ThinkingRule((THOUGHT,), (THINK,), begun=True))
    assert row.free(1000)
    assert row.commit(ids("abc")) == 3


def test_the_grammar_begins_behind_the_reasoning() -> None:
    row = constraint(from_regex("[xy]+"), ThinkingRule((THOUGHT,), (THINK,), begun=True))
    walk = row.walk(ids("abc"))
    assert text_of(walk.tokens) == "abc"
    assert all(allowed(mask) == set(range(VOCAB)) - {END} for mask in walk.masks)
    # what was chosen behind the marker was chosen without the grammar: it does not count
    assert row.commit([*ids("ab"), THOUGHT, *ids("bb")]) == 3
    assert allowed(row.walk([]).masks[0]) == {*ids("x"), *ids("y")}


def test_the_first_token_decides_between_reasoning_and_the_grammar() -> None:
    rule = ThinkingRule((THOUGHT,), (THINK,))
    row = constraint(from_regex("[xy]+"), rule)
    assert allowed(row.walk(ids("xx")).masks[0]) == {THINK, *ids("x"), *ids("y")}
    assert len(row.walk(ids("xx")).masks) == 1
    assert row.commit([THINK]) == 1
    assert END not in allowed(row.walk([]).masks[0])
    assert row.commit([THOUGHT]) == 1
    assert allowed(row.walk([]).masks[0]) == {*ids("x"), *ids("y")}
    direct = constraint(from_regex("[xy]+"), rule)
    assert direct.commit(ids("x")) == 1
    assert allowed(direct.walk([]).masks[0]) == {END, *ids("x"), *ids("y")}


@pytest.mark.parametrize("budget", [0, 1, 3, 10])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_budget_ends_the_reasoning_whatever_the_block(budget: int, width: int) -> None:
    rule = ThinkingRule((THOUGHT,), (THINK,), begun=True, budget=budget)
    row, text = constraint(None, rule), []
    while len(text) < 20:
        draft = ids("a") * (width - 1)
        if row.free(width):
            tokens = [*draft, *ids("a")]
        else:
            walk = row.walk(draft)
            last = allowed(walk.masks[-1])
            tokens = [*walk.tokens, ids("a")[0] if ids("a")[0] in last else min(last)]
        text += tokens[: row.commit(tokens)]
    assert text.index(THOUGHT) == budget


def test_a_marker_of_several_tokens_is_forced_whole() -> None:
    close = (*ids("z"), *ids("y"), THOUGHT)
    row = constraint(from_choices(["x"]), ThinkingRule(close, (), begun=True, budget=2))
    assert row.commit(ids("az")) == 2  # its first token came by itself
    walk = row.walk(ids("aaa"))
    assert walk.tokens == (*ids("y"),)
    assert [allowed(mask) for mask in walk.masks] == [{ids("y")[0]}, {THOUGHT}]
    assert row.commit([*ids("y"), THOUGHT, *ids("a")]) == 2
    assert allowed(row.walk([]).masks[0]) == {*ids("x")}
