"""Random walks through the call grammars: what they allow is read as calls that validate."""

import functools
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from dflash_serve.engine.grammar import Grammar, GrammarCompiler, GrammarError, from_lark
from dflash_serve.text.parsers.base import CallBegin, Markup, ToolSpec
from dflash_serve.text.parsers.lark import special_ids
from dflash_serve.text.parsers.table import by_name, names
from tests.fakes import save_tokenizer
from tests.text.parsers.answers import calls, parse, texts

STRICT = ToolSpec(
    "get_weather",
    None,
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"enum": ["c", "f"]},
            "days": {"type": "integer", "minimum": 0, "maximum": 99},
            "note": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
            "code": {"type": "string", "pattern": "^[a-c]{2}$"},
            "id": {"type": ["string", "integer"]},
            "place": {"$ref": "#/$defs/Place"},
            "flags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        },
        "required": ["city", "place"],
        "additionalProperties": False,
        "$defs": {
            "Place": {
                "type": "object",
                "properties": {
                    "x": {"type": "number"},
                    "near": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
                },
                "required": ["x"],
                "additionalProperties": False,
            }
        },
    },
    strict=True,
)
FREE = ToolSpec("clock")
EMPTY = ToolSpec("ping", None, {"type": "object", "properties": {}})
CLOSED = ToolSpec("stop", None, {"properties": {}, "additionalProperties": False}, strict=True)
TOOLS = (STRICT, FREE, EMPTY, CLOSED)
LEADS = {
    "hermes": "Well, <tool_call>",
    "qwen_xml": "Well, <tool_call>",
    "mistral": "Well,[TOOL_CALLS]",
    "mistral_array": "Well,[TOOL_CALLS]",
    "gemma4": "Well,<|tool_call>",
    "lfm2": "Well,<|tool_call_start|>",
    "function_gemma": "Well,<start_function_call>",
    "harmony": "<|channel|>analysis<|message|>Hm.<|end|><|channel|>commentary to=",
}
"""Beginnings of free answers behind which a call must follow; a brace for the others."""

CLOSERS = ("\n</parameter>\n", '<|"|>', "<escape>", "<|end|>")
"""Ends of free text, which a random walk would not find."""


@dataclass(frozen=True)
class Vocabulary:
    """A small byte-level tokenizer in which ``special`` are tokens of their own."""

    tokenizer: Tokenizer
    special: Mapping[str, int]

    @property
    def end(self) -> int:
        return self.tokenizer.token_to_id("<|im_end|>")

    def compile(self, grammar: str) -> Grammar:
        return self._compiler.compile(from_lark(grammar))

    @functools.cached_property
    def _compiler(self) -> GrammarCompiler:
        size = self.tokenizer.get_vocab_size()
        return GrammarCompiler(self.tokenizer.to_str(), size, [self.end])

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def accepts(self, grammar: str, text: str) -> bool:
        matcher = self.compile(grammar).start()
        return matcher.consume_tokens(self.encode(text)) and matcher.is_accepting()

    def walk(self, grammar: Grammar, rng: random.Random, lead: str = "") -> str | None:
        """A random text of the grammar, None if none ended soon. Closing characters weigh more."""
        matcher, ids = grammar.start(), self.encode(lead)
        assert not ids or matcher.consume_tokens(ids), lead
        while len(ids) < 300 and not matcher.is_stopped():
            token = self._next(matcher, rng, len(ids) / 500)
            if token == self.end:
                return self.decode(ids)
            assert matcher.consume_token(token), matcher.get_error()
            ids.append(token)
            for closer in self._closers if rng.random() < 0.1 else ():
                if matcher.validate_tokens(closer) == len(closer):
                    assert matcher.consume_tokens(closer)
                    ids += closer
        return self.decode(ids) if matcher.is_accepting() else None

    def _next(self, matcher: LLMatcher, rng: random.Random, hurry: float) -> int:
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.nonzero(np.unpackbits(mask, bitorder="little"))[0].tolist()
        if self.end in allowed:
            if len(allowed) == 1 or rng.random() < 0.3:
                return self.end
            allowed.remove(self.end)
        closing = [token for token in allowed if token in self._closing]
        return rng.choice(closing if closing and rng.random() < 0.4 + hurry else allowed)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    @functools.cached_property
    def _closers(self) -> list[list[int]]:
        return [self.encode(closer) for closer in CLOSERS]

    @functools.cached_property
    def _closing(self) -> frozenset[int]:
        return frozenset(filter(self._closes, range(self.tokenizer.get_vocab_size())))

    def _closes(self, token: int) -> bool:
        text = self.decode([token])
        return token in self.special.values() or (
            len(text) < 4 and any(c in text for c in '"}]<>/')
        )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = save_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))


def vocabulary(plain: Tokenizer, markers: tuple[str, ...] = ()) -> Vocabulary:
    tokenizer = Tokenizer.from_str(plain.to_str())
    tokenizer.add_tokens([AddedToken(text, special=text[0] == "[") for text in markers])
    return Vocabulary(tokenizer, special_ids(markers, tokenizer))


def test_special_tokens_are_those_that_llguidance_takes_for_special(plain: Tokenizer) -> None:
    texts = ["<tool_call>", "[TOOL_CALLS]", '<|"|>', "<a", "b>", "<c d>", "[ARGS]"]
    tokenizer = Tokenizer.from_str(plain.to_str())
    tokenizer.add_tokens([AddedToken(text, special=text == "[ARGS]") for text in texts])
    judge = LLTokenizer(tokenizer.to_str())
    wanted = {
        text: tokenizer.token_to_id(text)
        for text in texts
        if judge.is_special_token(tokenizer.token_to_id(text))
    }
    assert special_ids([*texts, "<unknown>"], tokenizer) == wanted
    assert "<tool_call>" in wanted
    assert "[TOOL_CALLS]" not in wanted


def walks(
    vocab: Vocabulary,
    markup: Markup,
    lead: str = "",
    tools: tuple[ToolSpec, ...] = (),
    **options: bool,
) -> Iterator[tuple[str, list[CallBegin]]]:
    """Texts of the grammar with the calls read from them, each of which was validated."""
    tools = tools or TOOLS
    schemas = {tool.name: Draft202012Validator(tool.parameters or {}) for tool in tools}
    strict = {tool.name for tool in tools if tool.strict}
    grammar = vocab.compile(markup.with_special(vocab.special).call_grammar(tools, **options))
    rng = random.Random(markup.name)
    tries = (vocab.walk(grammar, rng, lead) for _ in range(60))
    for text in itertools.islice((text for text in tries if text is not None), 10):
        events = parse(markup, text, tools=tools)
        for name, arguments in calls(events):
            assert isinstance(arguments, dict)
            if options["required"] or name in strict:
                schemas[name].validate(arguments)
        if options["required"]:
            assert texts(events)[1] == "", text
        yield text, [event for event in events if isinstance(event, CallBegin)]


KINDS = pytest.mark.parametrize("as_special", [False, True], ids=["text", "special"])
SETS = pytest.mark.parametrize("tools", [TOOLS, (STRICT,)], ids=["several", "strict"])


@KINDS
@SETS
@pytest.mark.parametrize("name", names())
def test_required_calls_and_nothing_else(
    plain: Tokenizer, name: str, tools: tuple[ToolSpec, ...], as_special: bool
) -> None:
    markup = by_name(name)
    vocab = vocabulary(plain, markup.markers if as_special else ())
    found = [begun for _, begun in walks(vocab, markup, "", tools, required=True, parallel=True)]
    assert len(found) >= 3
    assert all(found), "an answer without a call"


@KINDS
@SETS
@pytest.mark.parametrize("name", names())
def test_free_answers_whose_calls_are_well_formed(
    plain: Tokenizer, name: str, tools: tuple[ToolSpec, ...], as_special: bool
) -> None:
    markup = by_name(name)
    vocab = vocabulary(plain, markup.markers if as_special else ())
    lead = LEADS.get(name, "{")
    found = [begun for _, begun in walks(vocab, markup, lead, tools, required=False, parallel=True)]
    assert len(found) >= 3
    assert all(found), "the lead leaves no way but a call"


@pytest.mark.parametrize("name", names())
def test_one_call_at_most_without_parallel(plain: Tokenizer, name: str) -> None:
    markup = by_name(name)
    vocab = vocabulary(plain, markup.markers)
    for required in (True, False):
        lead = "" if required else LEADS.get(name, "{")
        for text, begun in walks(vocab, markup, lead, required=required, parallel=False):
            assert len(begun) == 1, text


@pytest.mark.parametrize("name", names())
def test_free_answers_may_be_text(plain: Tokenizer, name: str) -> None:
    markup = by_name(name)
    before = "<|channel|>final<|message|>" if name == "harmony" else ""
    for special in ((), markup.markers):
        vocab = vocabulary(plain, special)
        bound = markup.with_special(vocab.special)
        for parallel in (False, True):
            grammar = bound.call_grammar(TOOLS, required=False, parallel=parallel)
            assert vocab.accepts(grammar, before + "Hello <b> & {x}, [y]\nand </tool_cal 🙂")
            assert vocab.accepts(grammar, before)
        required = bound.call_grammar(TOOLS, required=True, parallel=True)
        assert not vocab.accepts(required, before + "Hello")
        assert not vocab.accepts(required, before)


CALL = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'


def test_only_what_validates_is_accepted(plain: Tokenizer) -> None:
    vocab, markup = vocabulary(plain), by_name("hermes")
    required = markup.call_grammar(TOOLS, required=True, parallel=True)
    free = markup.call_grammar(TOOLS, required=False, parallel=True)
    good = CALL % ("get_weather", '{"city": "Rom", "place": {"x": 1}}')
    bad = CALL % ("get_weather", '{"city": 5, "place": {"x": 1}}')
    for grammar in (required, free):
        assert vocab.accepts(grammar, good)
        assert vocab.accepts(grammar, "\n\n" + good + "\n" + good)
        assert vocab.accepts(grammar, CALL % ("clock", '{"any": ["thing"]}'))
        assert not vocab.accepts(grammar, bad)
        assert not vocab.accepts(grammar, CALL % ("nobody", "{}"))
        assert not vocab.accepts(grammar, CALL % ("stop", '{"a": 1}'))
        spaces = " " * 40
        assert not vocab.accepts(grammar, CALL % ("clock", f'{{"a":{spaces}1}}'))
    assert vocab.accepts(free, "So: " + good + " That was it.")
    assert not vocab.accepts(required, good + " That was it.")
    one = markup.call_grammar(TOOLS, required=True, parallel=False)
    assert not vocab.accepts(one, good + "\n" + good)


def test_arguments_of_tools_that_are_not_strict_are_free_in_free_answers(plain: Tokenizer) -> None:
    vocab, markup = vocabulary(plain), by_name("hermes")
    loose = (ToolSpec("get_weather", None, STRICT.parameters),)
    call = CALL % ("get_weather", '{"city": 5}')
    assert vocab.accepts(markup.call_grammar(loose, required=False, parallel=True), call)
    assert not vocab.accepts(markup.call_grammar(loose, required=True, parallel=True), call)


@pytest.mark.parametrize("name", ["hermes", "qwen_xml", "gemma4"])
def test_what_cannot_be_enforced_is_refused_for_strict_tools_only(
    plain: Tokenizer, name: str
) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "object", "not": {"required": ["x"]}}},
        "additionalProperties": False,
    }
    vocab, markup = vocabulary(plain), by_name(name)
    loose = markup.call_grammar([ToolSpec("t", None, schema)], required=True, parallel=True)
    vocab.compile(loose)
    with pytest.raises((ValueError, GrammarError), match="not"):
        vocab.compile(
            markup.call_grammar([ToolSpec("t", None, schema, True)], required=True, parallel=True)
        )


@pytest.mark.parametrize("name", ["qwen_xml", "gemma4"])
def test_markups_without_json_refuse_what_only_json_can_enforce(name: str) -> None:
    markup = by_name(name)
    for value in ({"type": "string", "not": {"const": "x"}}, {"allOf": [{"type": "string"}]}):
        for strict in (False, True):
            tool = ToolSpec("t", None, {"properties": {"a": value}}, strict)
            if not strict:
                assert markup.call_grammar([tool], required=True, parallel=True)
                continue
            with pytest.raises(ValueError, match=r"'(not|allOf)' in a tool's schema"):
                markup.call_grammar([tool], required=True, parallel=True)


@pytest.mark.parametrize("name", ["qwen_xml", "gemma4"])
@pytest.mark.parametrize(
    "schema",
    [
        {"properties": 5},
        {"properties": {}, "required": "a"},
        {"properties": {}, "required": [{}]},
        {"properties": {"a": {"type": "string", "minLength": "x"}}},
        {"properties": {"a": {"type": "string", "anyOf": 1}}},
    ],
)
def test_what_is_no_schema_is_refused(name: str, schema: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="in a tool's schema must be"):
        by_name(name).call_grammar([ToolSpec("t", None, schema)], required=True, parallel=True)


@pytest.mark.parametrize("name", names())
def test_required_members_that_are_not_declared_are_written(plain: Tokenizer, name: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b", "a"]}
    tool = ToolSpec("t", None, schema, strict=True)
    found = list(walks(vocabulary(plain), by_name(name), "", (tool,), required=True, parallel=True))
    assert len(found) >= 3


def test_a_schema_that_is_a_reference(plain: Tokenizer) -> None:
    schema = {
        "$ref": "#/$defs/Arguments",
        "$defs": {"Arguments": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    tool = ToolSpec("t", None, schema, strict=True)
    vocab = vocabulary(plain)
    for name in names():
        markup = by_name(name)
        assert len(list(walks(vocab, markup, "", (tool,), required=True, parallel=True))) >= 3


def test_a_reference_that_leads_nowhere_is_refused(plain: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/None"}}}
    tool = ToolSpec("t", None, schema, True)
    for name in ("hermes", "gemma4"):
        with pytest.raises((ValueError, GrammarError), match="None"):
            vocabulary(plain).compile(
                by_name(name).call_grammar([tool], required=True, parallel=True)
            )


def test_names_and_keys_with_quotes_are_written_safely(plain: Tokenizer) -> None:
    tool = ToolSpec('a"b\\', None, {"type": "object", "properties": {'k"\\': {"const": 'v"\\'}}})
    for name in ("hermes", "qwen_xml", "gemma4", "llama3"):
        vocab, markup = vocabulary(plain), by_name(name)
        found = list(walks(vocab, markup, "", (tool,), required=True, parallel=False))
        assert len(found) >= 3
        assert {begin.name for _, begun in found for begin in begun} == {tool.name}
