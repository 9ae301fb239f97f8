"""gpt-oss' harmony: an answer is messages in channels, calls are messages to a function. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dflash_serve.text.parsers.base import Markup, MarkupParser, ToolSpec
from dflash_serve.text.parsers.json_text import copy_value
from dflash_serve.text.parsers.lark import CallRules, Lark, json_value
from dflash_serve.text.parsers.reader import Markers, Output, Reader, Step, Unparsed
from dflash_serve.text.parsers.style import StreamParser, ends_inside

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
END, CALL, RETURN, CONSTRAIN = "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"
_BORDERS = Markers((START, CHANNEL, END, CALL, RETURN))
_HEADER_END = Markers((MESSAGE, START, END, CALL, RETURN))
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=functions\.([^\s<]+)")


@dataclass(frozen=True, slots=True)
class Harmony:
    """A `Markup`: ``analysis`` is reasoning, everything else that is no call is the answer."""

    name: str = "harmony"
    special: Mapping[str, int] = field(default_factory=dict)

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens that the parser must see as text."""
        return (START, CHANNEL, MESSAGE, END, CALL, RETURN, CONSTRAIN)

    @property
    def reasoning(self) -> tuple[str, str] | None:
        """Opening and closing marker of reasoning."""
        return f"{CHANNEL}analysis{MESSAGE}", END

    def parser(self, tools: Sequence[ToolSpec], *, in_reasoning: bool) -> MarkupParser:
        """A parser for one answer."""

        def program(reader: Reader, output: Output) -> Step[None]:
            yield from _messages(reader, output, in_reasoning)

        return StreamParser(program, tools)

    def with_special(self, ids: Mapping[str, int]) -> Markup:
        """This markup for a tokenizer in which those texts are special tokens."""
        return replace(self, special=ids)

    def call_grammar(self, tools: Sequence[ToolSpec], *, required: bool, parallel: bool) -> str:
        """A Lark grammar of answers that call ``tools``: one call, which ends the answer.

        It accepts analysis first, for answers whose reasoning was not taken off.
        """
        rules = CallRules(tools, required, parallel, self.special)
        lark = Lark(rules.special)
        head = lark.rule("head", f"({lark.literal(START + 'assistant')})? {lark.literal(CHANNEL)}")
        said = " | ".join(
            f"{lark.literal(channel + MESSAGE)} {lark.up_to(END)}"
            for channel in (("analysis",) if required else ("analysis", "commentary"))
        )
        calls = " | ".join(_call_rule(lark, tool, rules) for tool in tools)
        last = calls if required else f"{calls} | {lark.literal('final' + MESSAGE)} TEXT"
        return lark.finish(f"({head} ({said}))* {head} ({last})")

    def in_reasoning(self, prompt: str) -> bool:
        """Whether a rendered prompt, of which this is the last turn, ends inside reasoning."""
        return ends_inside(prompt, f"{CHANNEL}analysis{MESSAGE}", END)


def _call_rule(lark: Lark, tool: ToolSpec, rules: CallRules) -> str:
    head = f"commentary to=functions.{tool.name} {CONSTRAIN}json{MESSAGE}"
    return f"{lark.literal(head)} {json_value(rules.schema(tool))}"


def _messages(reader: Reader, output: Output, inside: bool) -> Step[None]:
    """Read messages; text between them, where none belongs, is content."""
    if inside:
        found = yield from reader.until(_BORDERS, output.reasoning)
        output.edge()
    else:
        found = yield from reader.until(_BORDERS, output.content)
    while found:
        if found in (START, CHANNEL):
            yield from output.attempt(found, _message(found, reader, output))
        found = yield from reader.until(_BORDERS, output.content)


def _message(opening: str, reader: Reader, output: Output) -> Step[None]:
    """Read one message up to the marker that ends it, which stays."""
    header = [opening]
    if (yield from reader.until(_HEADER_END, header.append)) != MESSAGE:
        raise Unparsed
    reader.record()
    channel = _CHANNEL.search("".join(header))
    function = _RECIPIENT.search("".join(header))
    output.edge()
    if function is not None and function.group(1) in output.tools:
        yield from _call(function.group(1), reader, output)
    elif channel is not None and channel.group(1) == "analysis":
        yield from reader.before(_BORDERS, output.reasoning)
        output.edge()
    else:
        yield from reader.before(_BORDERS, output.content)


def _call(name: str, reader: Reader, output: Output) -> Step[None]:
    """Read a call's arguments; nothing at all is no arguments."""
    char = yield from reader.spaces()
    if char == "{":
        output.begin(name)
        yield from copy_value(reader, output.arguments)
    elif char == "<" and (yield from reader.sees(CALL)):
        output.begin(name)
        output.arguments("{}")
    else:
        raise Unparsed
    output.done()
