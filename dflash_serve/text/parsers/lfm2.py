"""Calls as a list in Python between markers, or as JSON there: LFM2. Pure."""

from dataclasses import dataclass

from dflash_serve.text.parsers.json_text import read_calls
from dflash_serve.text.parsers.lark import CallRules, Lark, json_calls, marked_calls
from dflash_serve.text.parsers.python_text import python_calls
from dflash_serve.text.parsers.reader import Markers, Output, Reader, Step

OPEN, CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"
_END = Markers((CLOSE,))


@dataclass(frozen=True, slots=True)
class Lfm2:
    """A `ToolStyle`. The family reads Python and JSON; grammars write JSON."""

    name: str = "lfm2"
    markers: tuple[str, ...] = (OPEN, CLOSE)
    triggers: tuple[str, ...] = (OPEN,)
    leads: bool = False

    def calls(self, trigger: str, reader: Reader, output: Output) -> Step[None]:
        """Read the calls of one block and the block's end, which may be missing."""
        yield from reader.spaces()
        for beginning in ("{", "[{"):
            if (yield from reader.sees(beginning)):
                yield from read_calls(reader, output)
                yield from reader.spaces()
                yield from reader.closing(CLOSE)
                return
        code: list[str] = []
        yield from reader.until(_END, code.append)
        python_calls("".join(code), output)

    def grammar(self, rules: CallRules) -> str:
        """The Lark grammar of answers under ``rules``."""
        lark = Lark(rules.special)
        end = lark.literal("]" + CLOSE)
        calls = [f'"[" {body} {end}' for body in json_calls(rules, "arguments")]
        return marked_calls(lark, rules, OPEN, calls, "")
