"""A request's tools, and what it chooses among them, held against each other. Pure.

Knows no wire types: doors give the fields' names.
"""

from collections.abc import Sequence

from dflash_serve.server.ask import ToolMode
from dflash_serve.server.errors import invalid, shown
from dflash_serve.text.parsers.base import ToolSpec


def doubled(tools: Sequence[ToolSpec]) -> int | None:
    """The place of the first tool that has an earlier one's name."""
    seen: set[str] = set()
    for at, tool in enumerate(tools):
        if tool.name in seen:
            return at
        seen.add(tool.name)
    return None


def check_names(tools: Sequence[ToolSpec], field: str) -> None:
    """``field`` is where a tool has its name.

    Raises:
        ApiError: two have the same.
    """
    at = doubled(tools)
    if at is not None:
        param = f"tools.{at}.{field}"
        text = f"Invalid '{param}': another tool is named {shown(tools[at].name)}"
        raise invalid(param, text)


def check_known(name: str, tools: Sequence[ToolSpec], param: str) -> None:
    """
    Raises:
        ApiError: no tool is named so.
    """
    if all(name != tool.name for tool in tools):
        text = f"'{param}' names {shown(name)}, but no tool in 'tools' has that name"
        raise invalid(param, text)


def check_any(mode: ToolMode, tools: Sequence[ToolSpec], written: str) -> None:
    """``written`` is the door's word for ``mode``.

    Raises:
        ApiError: a call is required, but there are no tools.
    """
    if mode is ToolMode.REQUIRED and not tools:
        text = f"'tool_choice' is {shown(written)}, but there are no tools in 'tools'"
        raise invalid("tool_choice", text)


def only_named(tools: Sequence[ToolSpec], named: Sequence[tuple[str, str]]) -> tuple[ToolSpec, ...]:
    """Those of ``tools`` that a choice of allowed ones names. ``named``: names and their fields.

    Raises:
        ApiError: there is no tool of a name.
    """
    for name, param in named:
        check_known(name, tools, param)
    allowed = {name for name, _ in named}
    return tuple(tool for tool in tools if tool.name in allowed)
