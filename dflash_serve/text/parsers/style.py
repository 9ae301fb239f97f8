"""A markup put together from a reasoning style and a tool style, and the parser it gives. Pure.

Knows how an answer runs: reasoning first, then text with calls in it. Knows no family.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from dflash_serve.text.parsers.base import Event, Markup, MarkupParser, ToolSpec
from dflash_serve.text.parsers.lark import CallRules
from dflash_serve.text.parsers.reader import Markers, Output, Reader, Step, Unparsed

Program = Callable[[Reader, Output], Step[None]]


@dataclass(frozen=True, slots=True)
class ReasoningStyle:
    """The markers around reasoning, which stands at the answer's beginning.

    ``control``: the special token that ``open`` begins with, where words follow it.
    """

    name: str
    open: str
    close: str
    control: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens in its markers."""
        return self.control or self.open, self.close


class ToolStyle(Protocol):
    """One family's way to write calls."""

    @property
    def name(self) -> str: ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens in its calls."""
        ...

    @property
    def triggers(self) -> tuple[str, ...]:
        """Texts that begin a call wherever they stand."""
        ...

    @property
    def leads(self) -> bool:
        """Whether a call may also stand at the answer's beginning without a trigger."""
        ...

    def calls(self, trigger: str, reader: Reader, output: Output) -> Step[None]:
        """Read the calls behind ``trigger`` (empty: at the beginning of the answer)."""
        ...

    def grammar(self, rules: CallRules) -> str:
        """The Lark grammar of answers under ``rules``."""
        ...


class StreamParser:
    """Runs a program that reads the text: a `MarkupParser` of any markup."""

    def __init__(self, program: Program, tools: Sequence[ToolSpec]) -> None:
        self._reader = Reader()
        self._output = Output(self._reader, {tool.name: tool for tool in tools})
        self._steps = program(self._reader, self._output)

    def push(self, text: str) -> Sequence[Event]:
        """The events that ``text`` completes."""
        self._reader.feed(text)
        next(self._steps, None)
        return self._output.drain()

    def flush(self) -> Sequence[Event]:
        """End of the text: what was held back."""
        self._reader.end()
        next(self._steps, None)
        self._output.finish()
        return self._output.drain()


@dataclass(frozen=True, slots=True)
class StyledMarkup:
    """A `Markup` of a reasoning style and a tool style; either may be missing."""

    name: str
    thinks: ReasoningStyle | None = None
    tools: ToolStyle | None = None
    special: Mapping[str, int] = field(default_factory=dict)

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens that the parser must see as text."""
        styles = (self.thinks, self.tools)
        return tuple(marker for style in styles if style for marker in style.markers)

    @property
    def reasoning(self) -> tuple[str, str] | None:
        """Opening and closing marker of reasoning."""
        return (self.thinks.open, self.thinks.close) if self.thinks else None

    def parser(self, tools: Sequence[ToolSpec], *, in_reasoning: bool) -> MarkupParser:
        """A parser for one answer."""
        style = self.tools if tools else None

        def program(reader: Reader, output: Output) -> Step[None]:
            yield from _answer(reader, output, self.thinks, style, in_reasoning)

        return StreamParser(program, tools)

    def with_special(self, ids: Mapping[str, int]) -> Markup:
        """This markup for a tokenizer in which those texts are special tokens."""
        return replace(self, special=ids)

    def call_grammar(self, tools: Sequence[ToolSpec], *, required: bool, parallel: bool) -> str:
        """A Lark grammar of answers that call ``tools``."""
        if self.tools is None:
            raise ValueError(f"the markup {self.name} has no tool calls")
        return self.tools.grammar(CallRules(tools, required, parallel, self.special))

    def in_reasoning(self, prompt: str) -> bool:
        """Whether a rendered prompt, of which this is the last turn, ends inside reasoning."""
        return self.thinks is not None and ends_inside(prompt, self.thinks.open, self.thinks.close)


def ends_inside(prompt: str, open_: str, close: str) -> bool:
    """Whether ``open_`` stands in ``prompt`` without a ``close`` behind it."""
    return prompt.rfind(open_) > prompt.rfind(close)


def _answer(
    reader: Reader,
    output: Output,
    thinks: ReasoningStyle | None,
    tools: ToolStyle | None,
    inside: bool,
) -> Step[None]:
    """Reasoning, then text and calls. A close without reasoning before it is dropped, once."""
    triggers = tools.triggers if tools else ()
    stray = ""
    if thinks is not None:
        if (yield from _opens(reader, output, thinks, inside)):
            yield from _reasoning(reader, output, thinks, tools)
        else:
            stray = thinks.close
    markers = Markers((*triggers, stray) if stray else triggers)
    begins = True
    while True:
        if begins and tools is not None and tools.leads:
            yield from output.attempt("", tools.calls("", reader, output))
        begins = False
        found = yield from reader.until(markers, output.content)
        if not found:
            return
        if found == stray:
            output.edge()
            markers, begins = Markers(triggers), True
        elif tools is not None:
            yield from output.attempt(found, tools.calls(found, reader, output))


def _opens(reader: Reader, output: Output, style: ReasoningStyle, inside: bool) -> Step[bool]:
    """Read an opening marker at the answer's beginning; whether reasoning follows."""
    reader.record()
    yield from reader.spaces()
    opened = yield from reader.sees(style.open)
    space = reader.recorded()
    if opened:
        reader.take(len(style.open))
    elif not inside:
        output.content(space)
        return False
    output.edge()
    return True


def _reasoning(
    reader: Reader, output: Output, style: ReasoningStyle, tools: ToolStyle | None
) -> Step[None]:
    """Read reasoning and its end. Calls in it are thoughts, unless the answer ends with them.

    (Models write drafts of calls there, and sometimes the call itself without an end before it.)
    """
    markers = Markers((style.close, *(tools.triggers if tools else ())))
    while found := (yield from reader.until(markers, output.reasoning)):
        if found == style.close:
            output.edge()
            return
        if tools is not None:
            yield from _draft(found, reader, output, tools)


def _draft(found: str, reader: Reader, output: Output, tools: ToolStyle) -> Step[None]:
    """Read calls inside reasoning: real ones if the text ends behind them."""
    draft = Output(reader, output.tools, draft=True)
    reader.record(found)
    trigger: str | None = found
    try:
        while trigger is not None:
            yield from tools.calls(trigger, reader, draft)
            last = not (yield from reader.spaces())
            trigger = yield from _trigger(reader, tools)
    except Unparsed:
        last = False
    text = reader.recorded()
    if last:
        output.adopt(draft)
    else:
        output.reasoning(text)


def _trigger(reader: Reader, tools: ToolStyle) -> Step[str | None]:
    """Read a trigger, if one comes."""
    for trigger in tools.triggers:
        if (yield from reader.sees(trigger)):
            return reader.take(len(trigger))
    return None
