"""Compiled grammars: kept, and made anew when the rows that shared one have used it up."""

import random

from llguidance import LLMatcher

from dflash_serve.engine.grammar import GrammarCompiler, from_regex
from tests.engine.letters import compiler, ids

WILD = from_regex("[ab]*a[ab]{18}")
"""Every text of it leads the lexer through states of its own."""


def wear_out(grammars: GrammarCompiler) -> LLMatcher:
    """Rows that share one grammar until its tables are full; the row that met the end."""
    rng = random.Random(1)
    letters = ids("ab")
    grammar = grammars.compile(WILD)
    for _ in range(500):
        row = grammar.start()
        for _ in range(1000):
            row.compute_bitmask()
            if row.is_error():
                return row
            row.try_consume_tokens([rng.choice(letters)])
    raise AssertionError("the tables have no bound")


def test_a_grammar_is_compiled_once() -> None:
    grammars = compiler()
    assert grammars.compile(WILD) is grammars.compile(WILD)


def test_a_grammar_that_its_rows_used_up_is_compiled_anew() -> None:
    grammars = compiler()
    assert "too many states" in wear_out(grammars).get_error()
    row = grammars.compile(WILD).start()
    row.compute_bitmask()
    assert not row.is_error(), row.get_error()
    assert grammars.compile(WILD) is grammars.compile(WILD)
