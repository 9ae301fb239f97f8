"""Calls as JSON at the answer's beginning or behind ``<|python_tag|>``: Llama 3. Pure."""

from dataclasses import dataclass

from dflash_serve.text.parsers.json_text import read_calls
from dflash_serve.text.parsers.lark import CallRules, Lark, json_calls, leading_calls
from dflash_serve.text.parsers.reader import Output, Reader, Step

TAG = "<|python_tag|>"


@dataclass(frozen=True, slots=True)
class Llama:
    """A `ToolStyle`. Calls are separated by ``;``."""

    name: str = "llama3"
    markers: tuple[str, ...] = (TAG,)
    triggers: tuple[str, ...] = (TAG,)
    leads: bool = True

    def calls(self, trigger: str, reader: Reader, output: Output) -> Step[None]:
        """Read the calls."""
        yield from read_calls(reader, output, needs_arguments=not trigger)

    def grammar(self, rules: CallRules) -> str:
        """The Lark grammar of answers under ``rules``: without the tag."""
        return leading_calls(Lark(rules.special), rules, json_calls(rules, "parameters"), "; ")
