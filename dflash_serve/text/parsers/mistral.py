"""Calls behind ``[TOOL_CALLS]``: a JSON array (older), or ``name[ARGS]{...}`` (newer). Pure."""

import re
from dataclasses import dataclass

from dflash_serve.text.parsers.json_text import copy_value, read_calls
from dflash_serve.text.parsers.lark import (
    CallRules,
    Lark,
    json_calls,
    json_value,
    marked_calls,
    quote,
)
from dflash_serve.text.parsers.reader import Output, Reader, Step, Unparsed

CALLS, ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[^\s\[\]{}]+")


@dataclass(frozen=True, slots=True)
class Mistral:
    """A `ToolStyle`. It reads both forms; ``named``: the grammar writes the newer one."""

    name: str = "mistral"
    markers: tuple[str, ...] = (CALLS, ID, ARGS)
    triggers: tuple[str, ...] = (CALLS,)
    leads: bool = False
    named: bool = True

    def calls(self, trigger: str, reader: Reader, output: Output) -> Step[None]:
        """Read an array of calls, or one call."""
        char = yield from reader.spaces()
        if char in ("[", "{"):
            yield from read_calls(reader, output)
        else:
            yield from _named_call(reader, output)

    def grammar(self, rules: CallRules) -> str:
        """The Lark grammar of answers under ``rules``."""
        lark = Lark(rules.special)
        if self.named:
            id_ = f"({lark.literal(ID)} /[a-zA-Z0-9]{{9}}/)?" if ID in rules.special else ""
            calls = [
                f"{quote(tool.name)} {id_} {lark.literal(ARGS)} {json_value(rules.schema(tool))}"
                for tool in rules.tools
            ]
            return marked_calls(lark, rules, CALLS, calls, "")
        one = lark.rule("one", " | ".join(json_calls(rules, "arguments")))
        more = f'(", " {one})*' if rules.parallel else ""
        array = f'"[" {one} {more} "]"'
        return marked_calls(lark, CallRules(rules.tools, rules.required, False), CALLS, [array], "")


def _named_call(reader: Reader, output: Output) -> Step[None]:
    name = output.tool((yield from reader.word(_NAME))).name
    yield from reader.spaces()
    if (yield from reader.sees(ID)):
        reader.take(len(ID))
        yield from reader.word(_NAME)
    if (yield from reader.sees(ARGS)):
        reader.take(len(ARGS))
    if (yield from reader.spaces()) != "{":
        raise Unparsed
    output.begin(name)
    yield from copy_value(reader, output.arguments)
    output.done()
