"""Calls in a Markdown fence ``tool_code``, as JSON or as Python: prompted Gemma 3. Pure."""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dflash_serve.text.parsers.base import ToolSpec
from dflash_serve.text.parsers.json_text import read_calls
from dflash_serve.text.parsers.lark import CallRules, Lark, json_calls, leading_calls
from dflash_serve.text.parsers.reader import Markers, Output, Reader, Step, Unparsed

_FENCE = "```"
_CODE_END = Markers((_FENCE,))
_LIMIT = 64 * 1024
"""Characters of Python; a longer piece is no call."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """A `ToolStyle`. An answer that is plain JSON calls is read too, and written."""

    name: str = "gemma3"
    markers: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ("```tool_code", "```tool_call")
    leads: bool = True

    def calls(self, trigger: str, reader: Reader, output: Output) -> Step[None]:
        """Read the calls of one fence, or those that the answer begins with."""
        if not trigger or (yield from reader.spaces()) in ("{", "["):
            yield from read_calls(reader, output, needs_arguments=not trigger)
            if trigger:
                yield from reader.spaces()
                yield from reader.closing(_FENCE)
            return
        code: list[str] = []
        if not (yield from reader.until(_CODE_END, code.append)):
            raise Unparsed
        for name, arguments in _python_calls("".join(code), output.tools):
            output.begin(name)
            output.arguments(arguments)
            output.done()

    def grammar(self, rules: CallRules) -> str:
        """The Lark grammar of answers under ``rules``."""
        return leading_calls(Lark(rules.special), rules, json_calls(rules, "parameters"), "\n")


def _python_calls(code: str, tools: Mapping[str, ToolSpec]) -> list[tuple[str, str]]:
    """Name and JSON arguments of calls such as ``f(a=1)``, one a line or in a list."""
    if len(code) > _LIMIT:
        raise Unparsed
    try:
        lines = [one.value for one in ast.parse(code.strip()).body if isinstance(one, ast.Expr)]
        found = [
            call for line in lines for call in (line.elts if isinstance(line, ast.List) else [line])
        ]
        if not found:
            raise Unparsed
        return [_python_call(call, tools) for call in found]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise Unparsed from error


def _python_call(call: ast.expr, tools: Mapping[str, ToolSpec]) -> tuple[str, str]:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise Unparsed
    tool = tools.get(call.func.id)
    if tool is None:
        raise Unparsed
    names = list((tool.parameters or {}).get("properties") or {})
    if len(call.args) > len(names):
        raise Unparsed
    arguments: dict[str, Any] = {
        name: ast.literal_eval(value) for name, value in zip(names, call.args, strict=False)
    }
    for keyword in call.keywords:
        if keyword.arg is None:
            raise Unparsed
        arguments[keyword.arg] = ast.literal_eval(keyword.value)
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    text.encode()
    return tool.name, text
