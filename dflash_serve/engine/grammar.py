"""Grammars over tokens: compiled off the engine's thread, cached, bounded. By ``llguidance``.

Knows JSON schemas, regular expressions and Lark grammars as text; no rows and no arrays.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_SOURCE = 512 * 1024
"""Characters of one grammar's source."""
_CACHED = 64
_LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
_WHITESPACE = r"\x20{1,2}|\x0D?\x0A[\x20\x09]{0,16}"
"""Between JSON tokens: one or two spaces, or one line end and its indentation. Not any run, which
some models fill an answer with."""


class GrammarError(Exception):
    """A grammar that cannot be compiled; the message says why, in one line."""


class Grammar:
    """A compiled grammar, shared by the rows that obey it. Safe to use from several threads."""

    def __init__(self, source: str, matcher: LLMatcher) -> None:
        self._source = source
        self._matcher = matcher
        self._lock = threading.Lock()

    @property
    def source(self) -> str:
        """The serialised grammar, which identifies it."""
        return self._source

    def start(self) -> LLMatcher:
        """A matcher at the grammar's beginning, for one row."""
        with self._lock:
            return self._matcher.deep_copy()

    @property
    def worn(self) -> bool:
        """Whether no row can use it any more.

        Its rows share the tables that their texts grow, and those are bounded.
        """
        matcher = self.start()
        matcher.compute_bitmask()
        return bool(matcher.is_error())


class GrammarCompiler:
    """Source -> `Grammar`, the last ones kept. Blocking: call it on a worker thread.

    ``tokenizer`` is the text of a ``tokenizer.json``; ``vocab_size`` the number of logits;
    ``end_tokens`` those that may follow a complete text.
    """

    def __init__(self, tokenizer: str, vocab_size: int, end_tokens: Sequence[int]) -> None:
        self._tokenizer_text = tokenizer
        self._vocab_size = vocab_size
        self._end_tokens = sorted(end_tokens)
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, source: str) -> Grammar:
        """The grammar of ``source``, as the functions below give it.

        Raises:
            GrammarError: it is too long, too complex, or no grammar.
        """
        if len(source) > MAX_SOURCE:
            raise GrammarError(f"it has {len(source)} characters, the limit is {MAX_SOURCE}")
        with self._lock:
            known = self._kept.get(source)
            if known is not None:
                self._kept.move_to_end(source)
        if known is not None and not known.worn:
            return known
        matcher = LLMatcher(self._ready_tokenizer(), source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(_one_line(matcher.get_error()))
        matcher.compute_bitmask()  # builds the lexer's tables once, for all copies
        if matcher.is_error():
            raise GrammarError(_one_line(matcher.get_error()))
        grammar = Grammar(source, matcher)
        with self._lock:
            self._kept[source] = grammar
            self._kept.move_to_end(source)
            while len(self._kept) > _CACHED:
                self._kept.popitem(last=False)
        return grammar

    def _ready_tokenizer(self) -> LLTokenizer:
        """Made when first needed: reading a large vocabulary takes a second."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = LLTokenizer(
                    self._tokenizer_text,
                    n_vocab=self._vocab_size,
                    eos_token=self._end_tokens or None,
                )
            return self._tokenizer


def from_json_schema(schema: dict[str, Any] | bool) -> str:
    """The source of texts that are JSON and validate against ``schema``.

    Raises:
        GrammarError: it is no JSON schema.
    """
    if schema is False:
        raise GrammarError("the schema false allows no text")
    try:
        return LLMatcher.grammar_from_json_schema(
            json.dumps({} if schema is True else schema),
            overrides={"whitespace_pattern": _WHITESPACE},
        )
    except ValueError as error:
        raise GrammarError(_one_line(str(error))) from error


def from_regex(pattern: str) -> str:
    """The source of texts that match ``pattern`` as a whole."""
    return LLMatcher.grammar_from_regex(pattern)


def from_choices(choices: Sequence[str]) -> str:
    """The source of texts that are one of ``choices``."""
    options = " | ".join(json.dumps(choice) for choice in choices)
    return from_lark(f"start: {options}")


def from_lark(text: str) -> str:
    """The source of texts of a Lark grammar in llguidance's dialect."""
    return LLMatcher.grammar_from_lark(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300] or "it cannot be compiled"
