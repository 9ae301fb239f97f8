"""Calls as JSON between ``<tool_call>`` and ``</tool_call>``: Hermes, Qwen 2.5, Qwen 3. Pure."""

from dataclasses import dataclass

from dflash_serve.text.parsers.json_text import read_calls
from dflash_serve.text.parsers.lark import CallRules, Lark, json_calls, marked_calls
from dflash_serve.text.parsers.reader import Output, Reader, Step

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Hermes:
    """A `ToolStyle`."""

    name: str = "hermes"
    markers: tuple[str, ...] = (OPEN, CLOSE)
    triggers: tuple[str, ...] = (OPEN,)
    leads: bool = False

    def calls(self, trigger: str, reader: Reader, output: Output) -> Step[None]:
        """Read the calls of one block and the block's end, which may be missing."""
        yield from read_calls(reader, output)
        yield from reader.closing(CLOSE)

    def grammar(self, rules: CallRules) -> str:
        """The Lark grammar of answers under ``rules``."""
        lark = Lark(rules.special)
        end = lark.literal("\n" + CLOSE)
        calls = [f"{lark.literal(chr(10))} {body} {end}" for body in json_calls(rules, "arguments")]
        return marked_calls(lark, rules, OPEN, calls, "\n")
