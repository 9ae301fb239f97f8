"""Calls as plain JSON, for models whose template knows no markup of calls. Pure."""

from dataclasses import dataclass

from dflash_serve.text.parsers.json_text import read_calls
from dflash_serve.text.parsers.lark import CallRules, Lark, json_calls, leading_calls
from dflash_serve.text.parsers.reader import Output, Reader, Step


@dataclass(frozen=True, slots=True)
class PlainJson:
    """A `ToolStyle` without markers: the whole answer is a call, or an array of calls."""

    name: str = "json"
    markers: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    leads: bool = True

    def calls(self, trigger: str, reader: Reader, output: Output) -> Step[None]:
        """Read the calls."""
        yield from read_calls(reader, output, needs_arguments=True)

    def grammar(self, rules: CallRules) -> str:
        """The Lark grammar of answers under ``rules``."""
        return leading_calls(Lark(rules.special), rules, json_calls(rules, "arguments"), "\n")
