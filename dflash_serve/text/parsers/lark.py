"""Grammars of calls in llguidance's Lark dialect, put together from text and schemas. Pure.

Knows no markup; `TEXT` is any text, in which no special token can stand.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer

from dflash_serve.text.parsers.base import ToolSpec

_WHITESPACE = r"\x20{1,2}|\x0D?\x0A[\x20\x09]{0,16}"
"""Between JSON tokens: bounded, so that no model fills its arguments with spaces."""
OPTIONS = "x-guidance"
"""The member of a schema by which llguidance is told how to write and read it."""
_LEAD = '("\\n" | "\\n\\n")?'
"""Line ends that models write between reasoning and a call."""
TEXT = r"TEXT: /(?s:.*)/"


@dataclass(frozen=True, slots=True)
class CallRules:
    """What the answer must be. ``special``: ids of the markers that the tokenizer flags special.

    ``required``: calls and nothing else; otherwise any text, in which calls are well formed.
    """

    tools: Sequence[ToolSpec]
    required: bool
    parallel: bool
    special: Mapping[str, int] = field(default_factory=dict)

    def schema(self, tool: ToolSpec) -> dict[str, Any]:
        """What ``tool``'s arguments must validate against: any object where nothing is asked.

        A keyword that cannot be enforced is an error for strict tools only.
        """
        bound = self.required or tool.strict
        lenient = not tool.strict
        options = {
            "whitespace_pattern": _WHITESPACE,
            "lenient": lenient,
            "coerce_one_of": lenient,
        }
        schema = (tool.parameters if bound else None) or {}
        return {**schema, "type": "object", OPTIONS: options}


class Lark:
    """A grammar that is being written. Literal text may hold special markers."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        names = sorted(special, key=len, reverse=True)
        self._split = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._rules: list[str] = [TEXT]
        self._up_to: dict[str, str] = {}
        self._names = 0

    def literal(self, text: str) -> str:
        """An expression of exactly ``text``."""
        parts: list[str] = []
        at = 0
        for match in self._split.finditer(text):
            parts += [quote(text[at : match.start()]), f"<[{self._special[match.group()]}]>"]
            at = match.end()
        parts.append(quote(text[at:]))
        return " ".join(part for part in parts if part) or '""'

    def up_to(self, marker: str) -> str:
        """An expression of any text without ``marker``, and ``marker``."""
        if marker in self._special:
            return f"TEXT {self.literal(marker)}"
        if marker not in self._up_to:
            self._up_to[marker] = self.rule("up_to", f"TEXT {quote(marker)}", "[lazy]")
        return self._up_to[marker]

    def rule(self, stem: str, body: str, options: str = "") -> str:
        """A new rule; its name."""
        name = self.reserve(stem)
        self._rules.append(f"{name}{options}: {body}")
        return name

    def reserve(self, stem: str) -> str:
        """The name of a rule that `define` writes later, so that it may refer to itself."""
        self._names += 1
        return f"{stem}_{self._names}"

    def terminal(self, body: str) -> str:
        """A new terminal; its name."""
        name = self.reserve("T")
        self._rules.append(f"{name}: {body}")
        return name

    def define(self, name: str, body: str) -> None:
        """The rule of a reserved name."""
        self._rules.append(f"{name}: {body}")

    def finish(self, start: str) -> str:
        """The grammar's text."""
        return "\n".join([f"start: {start}", *self._rules]) + "\n"


def special_ids(texts: Iterable[str], tokenizer: Tokenizer) -> dict[str, int]:
    """Those of ``texts`` that are tokens which no text of a grammar can stand for, with ids.

    To llguidance that is each added token that is flagged special or looks like ``<...>``.
    """
    added = {token.content: (id_, token) for id_, token in _added(tokenizer)}
    return {
        text: added[text][0]
        for text in texts
        if text in added
        and (added[text][1].special or (text.startswith("<") and text.endswith(">")))
    }


def _added(tokenizer: Tokenizer) -> Iterable[tuple[int, AddedToken]]:
    return tokenizer.get_added_tokens_decoder().items()


def quote(text: str) -> str:
    """``text`` as a string of the grammar; nothing for the empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def json_value(schema: Mapping[str, Any]) -> str:
    """An expression of JSON text that validates against ``schema``, which says its `OPTIONS`."""
    return f"%json {json.dumps(schema)}"


def marked_calls(lark: Lark, rules: CallRules, marker: str, calls: Sequence[str], gap: str) -> str:
    """The grammar of answers in which ``marker`` begins a call: one of ``calls``.

    ``gap`` is the text between two calls that follow each other.
    """
    call = lark.rule("call", " | ".join(calls))
    first = f"{lark.literal(marker)} {call}"
    if rules.required:
        more = f"({lark.literal(gap + marker)} {call})*" if rules.parallel else ""
        return lark.finish(f"{_LEAD} {first} {more}")
    marked = f"{lark.up_to(marker)} {call}"
    return lark.finish(f"({marked})* TEXT" if rules.parallel else f"TEXT | {marked}")


def leading_calls(lark: Lark, rules: CallRules, calls: Sequence[str], gap: str) -> str:
    """The grammar of answers that are calls without a marker, or do not begin like one."""
    call = lark.rule("call", " | ".join(calls))
    more = f"({lark.literal(gap)} {call})*" if rules.parallel else ""
    if rules.required:
        return lark.finish(f"{_LEAD} {call} {more}")
    other = lark.terminal(r"/([ \t\r\n]*[^ \t\r\n{\[](?s:.*))?/")
    return lark.finish(f"{_LEAD} {call} {more} | {other}")


def json_calls(rules: CallRules, arguments: str) -> list[str]:
    """Per tool an expression of ``{"name": ..., "<arguments>": {...}}``."""
    return [
        f"{quote(_head(tool.name, arguments))} {json_value(rules.schema(tool))} {quote('}')}"
        for tool in rules.tools
    ]


def _head(name: str, arguments: str) -> str:
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{arguments}": '
