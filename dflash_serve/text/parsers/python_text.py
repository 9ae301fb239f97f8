"""Calls that are written as Python, read once they are whole. Pure; nothing is run.

Arguments are literals. Knows no markup.
"""

import ast
import json
from collections.abc import Mapping
from typing import Any

from dflash_serve.text.parsers.base import ToolSpec
from dflash_serve.text.parsers.reader import Output, Unparsed

_LIMIT = 64 * 1024
"""Characters of Python; a longer piece is no call."""


def python_calls(code: str, output: Output) -> None:
    """Give out all calls of ``code``, such as ``f(a=1)``, one a line or in a list.

    Raises:
        Unparsed: it is no such code; nothing has been given out.
    """
    for name, arguments in _calls(code, output.tools):
        output.begin(name)
        output.arguments(arguments)
        output.done()


def _calls(code: str, tools: Mapping[str, ToolSpec]) -> list[tuple[str, str]]:
    """Names and JSON arguments."""
    if len(code) > _LIMIT:
        raise Unparsed
    try:
        lines = [one.value for one in ast.parse(code.strip()).body if isinstance(one, ast.Expr)]
        found = [
            call for line in lines for call in (line.elts if isinstance(line, ast.List) else [line])
        ]
        if not found:
            raise Unparsed
        return [_call(call, tools) for call in found]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise Unparsed from error


def _call(call: ast.expr, tools: Mapping[str, ToolSpec]) -> tuple[str, str]:
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
