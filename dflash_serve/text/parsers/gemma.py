"""Calls as ``call:name{key:value}`` between markers: Gemma 4 and FunctionGemma. Pure.

Values are written in a notation of their own: bare keys, strings between markers.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dflash_serve.text.parsers.base import ToolSpec
from dflash_serve.text.parsers.json_text import Notation, copy_value
from dflash_serve.text.parsers.lark import OPTIONS, CallRules, Lark, json_value, marked_calls
from dflash_serve.text.parsers.reader import Output, Reader, Step, Unparsed
from dflash_serve.text.parsers.schema import check, members, pointed, text_value

_NAME = re.compile(r"[^\s{}<>]+")
_BARE = re.compile(r"[^\s:,{}\[\]\"<]+")
_SCALARS = ("number", "integer", "boolean", "null")


@dataclass(frozen=True, slots=True)
class Gemma:
    """A `ToolStyle`, by its markers."""

    name: str = "gemma4"
    open: str = "<|tool_call>"
    close: str = "<tool_call|>"
    string: str = '<|"|>'
    leads: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens in its calls."""
        return (self.open, self.close, self.string)

    @property
    def triggers(self) -> tuple[str, ...]:
        """Texts that begin a call."""
        return (self.open,)

    def calls(self, trigger: str, reader: Reader, output: Output) -> Step[None]:
        """Read one call and its end, which may be missing."""
        yield from reader.spaces()
        yield from reader.literal("call:")
        name = output.tool((yield from reader.word(_NAME))).name
        if (yield from reader.spaces()) != "{":
            raise Unparsed
        output.begin(name)
        notation = Notation((self.string, '"'), bare_keys=True)
        yield from copy_value(reader, output.arguments, notation)
        output.done()
        yield from reader.spaces()
        yield from reader.closing(self.close)

    def grammar(self, rules: CallRules) -> str:
        """The Lark grammar of answers under ``rules``.

        Raises:
            ValueError: a schema uses a keyword that this notation cannot enforce.
        """
        lark = Lark(rules.special)
        calls = [self._call(lark, tool, rules.schema(tool)) for tool in rules.tools]
        return marked_calls(lark, rules, self.open, calls, "")

    def _call(self, lark: Lark, tool: ToolSpec, schema: dict[str, Any]) -> str:
        value = _Values(lark, self.string, schema).value(schema)
        return f"{lark.literal('call:' + tool.name)} {value} {lark.literal(self.close)}"


class _Values:
    """Writes one schema's values into a grammar. References become rules, so they may recur."""

    def __init__(self, lark: Lark, string: str, root: Mapping[str, Any]) -> None:
        self._lark = lark
        self._string = string
        self._root = root
        self._options = {OPTIONS: root[OPTIONS]}
        self._referred: dict[str, str] = {}
        self._any = ""

    def value(self, schema: Any) -> str:
        """An expression of the values of ``schema``."""
        if not isinstance(schema, Mapping):
            return self._anything()
        check(schema, self._root)
        if "$ref" in schema:
            return self._reference(str(schema["$ref"]))
        if "const" in schema:
            return self._written(schema["const"])
        if "enum" in schema:
            return f"({' | '.join(map(self._written, schema['enum']))})"
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches:
            return f"({' | '.join(map(self.value, branches))})"
        return self._of_type(schema)

    def _of_type(self, schema: Mapping[str, Any]) -> str:
        kind = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kind, list):
            return f"({' | '.join(self._of_type({**schema, 'type': one}) for one in kind)})"
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            text = text_value(self._lark, schema, self._string)
            return f"{self._lark.literal(self._string)} {text}"
        if kind in _SCALARS:
            return json_value({**schema, **self._options})
        return self._anything()

    def _object(self, schema: Mapping[str, Any]) -> str:
        """Members in the order of their names, as the family's templates write them."""
        properties, required = members(schema)
        if not properties:
            empty = schema.get("additionalProperties") is False
            return '"{" "}"' if empty else self._any_object()
        first, later = '""', '""'
        for key in sorted(properties, key=str.lower, reverse=True):
            member = f"{self._key(key)} {self.value(properties[key])}"
            optional = key not in required
            begun = f"{member} {later}"
            first, later = (
                self._lark.rule("first", begun + (f" | {first}" if optional else "")),
                self._lark.rule("later", f'"," {begun}' + (f" | {later}" if optional else "")),
            )
        return f'"{{" {first} "}}"'

    def _array(self, schema: Mapping[str, Any]) -> str:
        item = self._lark.rule("item", self.value(schema.get("items", {})))
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return '"[" "]"'
        rest = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        items = f'{item} ("," {item}){rest}'
        return f'"[" {items} "]"' if least else f'"[" ({items})? "]"'

    def _reference(self, pointer: str) -> str:
        if pointer not in self._referred:
            name = self._lark.reserve("reference")
            self._referred[pointer] = name
            target = pointed(self._root, pointer)
            if target is None:
                raise ValueError(f"'$ref': {pointer!r} in a tool's schema leads nowhere")
            self._lark.define(name, self.value(target))
        return self._referred[pointer]

    def _key(self, key: str) -> str:
        return self._lark.literal((key if _BARE.fullmatch(key) else self._quoted(key)) + ":")

    def _quoted(self, text: str) -> str:
        return f"{self._string}{text}{self._string}"

    def _written(self, value: Any) -> str:
        return self._lark.literal(self._as_text(value))

    def _as_text(self, value: Any) -> str:
        if isinstance(value, str):
            return self._quoted(value)
        if isinstance(value, Mapping):
            members = ",".join(f"{key}:{self._as_text(value[key])}" for key in sorted(value))
            return f"{{{members}}}"
        if isinstance(value, Sequence):
            return f"[{','.join(map(self._as_text, value))}]"
        return json.dumps(value)

    def _anything(self) -> str:
        """A rule of any value, which holds objects and arrays of any values."""
        if not self._any:
            self._any = self._lark.reserve("anything")
            scalar = json_value({"type": list(_SCALARS), **self._options})
            text = f"{self._lark.literal(self._string)} {self._lark.up_to(self._string)}"
            array = f'"[" ({self._any} ("," {self._any})*)? "]"'
            members = self._any_object()
            self._lark.define(self._any, f"{scalar} | {text} | {array} | {members}")
        return self._any

    def _any_object(self) -> str:
        member = f'/[a-zA-Z0-9_-]{{1,64}}/ ":" {self._anything()}'
        rule = self._lark.rule("member", member)
        return f'"{{" ({rule} ("," {rule})*)? "}}"'
