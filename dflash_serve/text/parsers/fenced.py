"""Calls in a Markdown fence ``tool_code``, as JSON or as Python: prompted Gemma 3. Pure."""

from dataclasses import dataclass

from dflash_serve.text.parsers.json_text import read_calls
from dflash_serve.text.parsers.lark import CallRules, Lark, json_calls, leading_calls
from dflash_serve.text.parsers.python_text import python_calls
from dflash_serve.text.parsers.reader import Markers, Output, Reader, Step, Unparsed

_FENCE = "```"
_CODE_END = Markers((_FENCE,))


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
        python_calls("".join(code), output)

    def grammar(self, rules: CallRules) -> str:
        """The Lark grammar of answers under ``rules``."""
        return leading_calls(Lark(rules.special), rules, json_calls(rules, "parameters"), "\n")
