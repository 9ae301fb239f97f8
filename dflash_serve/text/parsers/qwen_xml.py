"""Calls as ``<function=name>`` with ``<parameter=key>`` blocks: Qwen3-Coder, Qwen 3.5. Pure.

A value has no type of its own: the tool's schema tells text from JSON.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dflash_serve.text.parsers.base import ToolSpec
from dflash_serve.text.parsers.json_text import escape
from dflash_serve.text.parsers.lark import CallRules, Lark, json_value, marked_calls, quote
from dflash_serve.text.parsers.reader import Markers, Output, Reader, Step, Unparsed
from dflash_serve.text.parsers.schema import (
    ALL,
    STRING,
    check,
    definitions,
    kinds,
    members,
    resolve,
    text_value,
    typed,
)

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
_NAME = re.compile(r"[^<>\n]+")
_VALUE_END = Markers(("\n" + PARAMETER_END, PARAMETER_END))
_NULLS = ("null", "None")
_KEY = "/[a-zA-Z0-9_.-]{1,64}/"
_TEXTUAL = frozenset({"string", "null"})


@dataclass(frozen=True, slots=True)
class QwenXml:
    """A `ToolStyle`. The outer tags may be missing."""

    name: str = "qwen_xml"
    markers: tuple[str, ...] = (OPEN, CLOSE)
    triggers: tuple[str, ...] = (OPEN, FUNCTION)
    leads: bool = False

    def calls(self, trigger: str, reader: Reader, output: Output) -> Step[None]:
        """Read one block: its functions, and its end, which may be missing."""
        if trigger == OPEN:
            yield from reader.spaces()
            yield from reader.literal(FUNCTION)
        yield from _function(reader, output)
        while (yield from reader.spaces()) and (yield from reader.sees(FUNCTION)):
            yield from reader.literal(FUNCTION)
            yield from _function(reader, output)
        yield from reader.closing(CLOSE)

    def grammar(self, rules: CallRules) -> str:
        """The Lark grammar of answers under ``rules``."""
        lark = Lark(rules.special)
        calls = [_call_rule(lark, tool, rules.schema(tool)) for tool in rules.tools]
        return marked_calls(lark, rules, OPEN, calls, "\n")


def _function(reader: Reader, output: Output) -> Step[None]:
    """Read a function's name, parameters and end."""
    tool = output.tool((yield from reader.word(_NAME)).strip())
    yield from reader.literal(">")
    count = 0
    while True:
        yield from reader.spaces()
        if (yield from reader.sees(FUNCTION_END)):
            break
        yield from reader.literal(PARAMETER)
        key = (yield from reader.word(_NAME)).strip()
        yield from reader.literal(">")
        if not count:
            output.begin(tool.name)
        output.arguments(("{" if not count else ", ") + f'"{escape(key)}": ')
        yield from _value(reader, output, _kinds_of_key(tool, key))
        count += 1
    reader.take(len(FUNCTION_END))
    if not count:
        output.begin(tool.name)
    output.arguments("}" if count else "{}")
    output.done()


def _kinds_of_key(tool: ToolSpec, key: str) -> frozenset[str]:
    schema = tool.parameters or {}
    properties = resolve(schema, schema).get("properties")
    if not isinstance(properties, Mapping) or key not in properties:
        return ALL
    return kinds(properties[key], schema)


def _value(reader: Reader, output: Output, allowed: frozenset[str]) -> Step[None]:
    """Copy a value as JSON and read its end: text as it comes, anything else once it is whole."""
    if (yield from reader.peek()) == "\n":
        reader.take()
    if "string" in allowed and allowed <= _TEXTUAL:
        if allowed == STRING or not (yield from _null(reader, output)):
            yield from _text(reader, output)
        return
    pieces: list[str] = []
    if not (yield from reader.until(_VALUE_END, pieces.append)):
        raise Unparsed
    output.arguments(typed("".join(pieces), allowed))


def _null(reader: Reader, output: Output) -> Step[bool]:
    """Copy a null and read its end, if that is the value."""
    for word in _NULLS:
        for end in _VALUE_END.texts:
            if (yield from reader.sees(word + end)):
                reader.take(len(word + end))
                output.arguments("null")
                return True
    return False


def _text(reader: Reader, output: Output) -> Step[None]:
    output.arguments('"')
    if not (yield from reader.until(_VALUE_END, lambda text: output.arguments(escape(text)))):
        raise Unparsed
    output.arguments('"')


def _call_rule(lark: Lark, tool: ToolSpec, schema: dict[str, Any]) -> str:
    parts = [quote(f"\n{FUNCTION}{tool.name}>\n")]
    top = resolve(schema, schema)
    check(top, schema, "anyOf", "oneOf")
    properties, required = members(top)
    for key, value in properties.items():
        rule = lark.rule(
            "parameter", f"{quote(f'{PARAMETER}{key}>')} {_ruled(lark, value, schema)}"
        )
        parts.append(rule if key in required else f"{rule}?")
    if not properties and top.get("additionalProperties") is not False:
        free = f'"{PARAMETER}" {_KEY} ">\\n" {lark.up_to(PARAMETER_END)} "\\n"'
        parts.append(f"{lark.rule('parameter', free)}*")
    parts += [quote(f"{FUNCTION_END}\n"), lark.literal(CLOSE)]
    return lark.rule("function", " ".join(parts))


def _ruled(lark: Lark, value: Any, root: dict[str, Any]) -> str:
    """An expression of a value, its end and the line's."""
    schema, allowed = resolve(value, root), kinds(value, root)
    end = quote(f"\n{PARAMETER_END}\n")
    if "const" in schema or isinstance(schema.get("enum"), list):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return f'"\\n" ({" | ".join(lark.literal(_written(one)) for one in values)}) {end}'
    if "string" not in allowed:
        return f'"\\n" {json_value({**definitions(root), **schema})} {end}'
    check(schema, root)
    if allowed <= _TEXTUAL or allowed == ALL:
        text = text_value(lark, _string_branch(schema, root), PARAMETER_END, "\n")
        return f'"\\n" {text} "\\n"'
    word = lark.terminal(r"/[a-zA-Z_](?s:.*)/ & ~/(?s:.*)<\/parameter>(?s:.*)/")
    other = _without_strings(schema, root)
    return f'"\\n" ({word} | {other}) {end}' if other else f'"\\n" {word} {end}'


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _string_branch(schema: Mapping[str, Any], root: dict[str, Any]) -> Mapping[str, Any]:
    """The part of a union that says what its strings are."""
    branches = [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    strings = (branch for branch in branches if "string" in kinds(branch, root))
    return resolve(next(strings, schema), root)


def _without_strings(schema: Mapping[str, Any], root: dict[str, Any]) -> str:
    """An expression of the JSON values of a union that are no strings, if it can be told."""
    if isinstance(schema.get("type"), list):
        rest = [kind for kind in schema["type"] if kind != "string"]
        return json_value({**definitions(root), **schema, "type": rest})
    branches = [
        branch
        for name in ("anyOf", "oneOf")
        for branch in schema.get(name) or ()
        if "string" not in kinds(branch, root)
    ]
    return json_value({**definitions(root), "anyOf": branches}) if branches else ""
