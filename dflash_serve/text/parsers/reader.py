"""Text that arrives in pieces, and the events made of it. Pure.

Markups are read by generators: plain sequential code that yields where the text runs out, so
that the borders between pieces cannot matter. Knows no markup.
"""

import re
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TypeVar

from dflash_serve.text.parsers.base import (
    CallArguments,
    CallBegin,
    Content,
    Event,
    Reasoning,
    ToolSpec,
)

T = TypeVar("T")
Step = Generator[None, None, T]
"""A generator that yields when it needs more text and returns a T."""
Sink = Callable[[str], object]

SPACES = re.compile(r"[ \t\r\n]+")
_BLANK = " \t\r\n"
_WORD_LIMIT = 256
"""Characters of a name or a key outside quotes."""


class Unparsed(Exception):
    """What was read is not the markup that it seemed to be."""


class Markers:
    """Texts to find: the leftmost complete one, and how much of an end may become one.

    No marker may begin inside another one, except as its end.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(texts)
        self._pattern = re.compile("|".join(map(re.escape, self.texts)) or "(?!)")
        self._prefixes = {text[:size] for text in self.texts for size in range(1, len(text))}
        self._longest = max(map(len, self.texts), default=1) - 1

    def find(self, text: str, start: int) -> re.Match[str] | None:
        """The first marker at or behind ``start``."""
        return self._pattern.search(text, start)

    def open_end(self, text: str, start: int) -> int:
        """Where the longest end of ``text`` begins that more text could make a marker."""
        first = max(start, len(text) - self._longest)
        ends = (at for at in range(first, len(text)) if text[at:] in self._prefixes)
        return next(ends, len(text))


class Reader:
    """The text so far, read from the front. What is read can be recorded, to be given back."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._record: list[str] | None = None

    def feed(self, text: str) -> None:
        """More text."""
        self._text, self._at = self._text[self._at :] + text, 0

    def end(self) -> None:
        """No more text."""
        self._ended = True

    def record(self, before: str = "") -> None:
        """Keep what is read from here on, behind ``before``."""
        self._record = [before]

    def recorded(self) -> str:
        """What was read since `record`; recording ends."""
        kept, self._record = self._record or [], None
        return "".join(kept)

    def take(self, count: int = 1) -> str:
        """The next characters, which a look ahead has seen."""
        piece = self._next(count)
        self._at += len(piece)
        if self._record is not None:
            self._record.append(piece)
        return piece

    def peek(self) -> Step[str]:
        """The next character; "" at the end of the text."""
        while self._at == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[self._at]

    def sees(self, literal: str) -> Step[bool]:
        """Whether the text goes on with ``literal``; reads nothing."""
        while True:
            if self._text.startswith(literal, self._at):
                return True
            if self._ended or not literal.startswith(self._next(len(literal))):
                return False
            yield

    def literal(self, text: str) -> Step[None]:
        """Read exactly ``text``."""
        if not (yield from self.sees(text)):
            raise Unparsed
        self.take(len(text))

    def closing(self, text: str) -> Step[bool]:
        """Read ``text`` if it comes; a beginning of it that the end cuts off counts as it."""
        if (yield from self.sees(text)):
            self.take(len(text))
            return True
        if self._ended and text.startswith(self._next(len(text))):
            self.take(len(text))
            return True
        return False

    def _next(self, count: int) -> str:
        return self._text[self._at : self._at + count]

    def run(self, pattern: re.Pattern[str], sink: Sink | None = None) -> Step[None]:
        """Read characters of one class (``pattern`` is its repetition) as far as they go."""
        while (yield from self.peek()):
            match = pattern.match(self._text, self._at)
            if match is None:
                return
            piece = self.take(match.end() - self._at)
            if sink is not None:
                sink(piece)

    def spaces(self) -> Step[str]:
        """Skip white space; the character that follows it, "" at the end."""
        yield from self.run(SPACES)
        return (yield from self.peek())

    def word(self, pattern: re.Pattern[str]) -> Step[str]:
        """Read one or more characters of a class, bounded."""
        word = ""
        while (yield from self.peek()):
            match = pattern.match(self._text, self._at, self._at + _WORD_LIMIT + 1 - len(word))
            if match is None:
                break
            word += self.take(match.end() - self._at)
            if len(word) > _WORD_LIMIT:
                raise Unparsed
        if not word:
            raise Unparsed
        return word

    def until(self, markers: Markers, sink: Sink) -> Step[str]:
        """Read up to one of ``markers``, and that; which it was, "" at the end of the text."""
        found = yield from self.before(markers, sink)
        self.take(len(found))
        return found

    def before(self, markers: Markers, sink: Sink) -> Step[str]:
        """Read up to one of ``markers``; which it is, "" at the end of the text."""
        while True:
            match = markers.find(self._text, self._at)
            end = match.start() if match else markers.open_end(self._text, self._at)
            if match is None and self._ended:
                end = len(self._text)
            if end > self._at:
                sink(self.take(end - self._at))
            if match is not None:
                return match.group()
            if self._ended:
                return ""
            yield


class _Edges:
    """Text without the white space that touches markup, but for one between two texts."""

    def __init__(self, *, inside: bool) -> None:
        self._blank: list[str] = []
        self._begins = inside
        self._cut = inside

    def push(self, text: str) -> str:
        """The part of the text so far that is not at an edge."""
        if self._begins:
            text = text.lstrip(_BLANK)
            self._begins = not text
        body = text.rstrip(_BLANK)
        blank = text[len(body) :]
        if not body:
            if blank:
                self._blank.append(blank)
            return ""
        body = "".join(self._blank) + body
        self._blank, self._cut = [blank], False
        return body

    def cut(self) -> None:
        """Markup comes: of the white space around it only what was before it may be needed."""
        self._begins = self._cut = True

    def flush(self) -> str:
        """The text ends; white space that no markup follows is its own."""
        return "" if self._cut else "".join(self._blank)


class Output:
    """The events of one answer, pieces of one kind joined. White space around markup is dropped.

    ``tools`` are those that the answer may call, by name. A ``draft`` is a trial: the reader
    goes on recording behind a complete call.
    """

    def __init__(
        self, reader: Reader, tools: Mapping[str, ToolSpec], *, draft: bool = False
    ) -> None:
        self.tools = tools
        self._reader = reader
        self._draft = draft
        self._events: list[Event] = []
        self._kind: type[Reasoning] | type[Content] | type[CallArguments] = Content
        self._pieces: list[str] = []
        self._content = _Edges(inside=False)
        self._reasoning = _Edges(inside=True)
        self._calls = 0
        self._in_call = False

    def reasoning(self, text: str) -> None:
        """More reasoning."""
        self._add(Reasoning, self._reasoning.push(text))

    def content(self, text: str) -> None:
        """More of the answer."""
        self._add(Content, self._content.push(text))

    def edge(self) -> None:
        """Reasoning begins or ends."""
        self._content.cut()
        self._reasoning.cut()

    def tool(self, name: str) -> ToolSpec:
        """The tool called ``name``."""
        tool = self.tools.get(name)
        if tool is None:
            raise Unparsed
        return tool

    def begin(self, name: str) -> None:
        """A call begins; what is read from here on is no text any more."""
        self.edge()
        self._seal()
        self._events.append(CallBegin(self._calls, name))
        self._in_call = True

    def arguments(self, text: str) -> None:
        """More of the running call's arguments."""
        self._add(CallArguments, text)

    def done(self) -> None:
        """The running call is complete."""
        self._seal()
        self._calls += 1
        self._in_call = False
        if not self._draft:
            self._reader.record()

    def adopt(self, draft: "Output") -> None:
        """The calls of a trial are this answer's, which has none yet."""
        self.edge()
        self._seal()
        self._events += draft.drain()
        self._calls = draft._calls

    def attempt(self, marker: str, body: Step[None]) -> Step[bool]:
        """Read calls by ``body``, behind ``marker``. What belongs to none of them is content."""
        self._reader.record(marker)
        try:
            yield from body
        except Unparsed:
            text = self._reader.recorded()
            if self._in_call:
                self.done()
                self._reader.recorded()
            else:
                self.content(text)
            return False
        self._reader.recorded()
        return True

    def drain(self) -> list[Event]:
        """The events since the last time."""
        self._seal()
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """The text ends: white space that waited for more of it is part of it."""
        self._add(Reasoning, self._reasoning.flush())
        self._add(Content, self._content.flush())

    def _add(self, kind: type[Reasoning] | type[Content] | type[CallArguments], text: str) -> None:
        if not text:
            return
        if kind is not self._kind:
            self._seal()
            self._kind = kind
        self._pieces.append(text)

    def _seal(self) -> None:
        if not self._pieces:
            return
        text, self._pieces = "".join(self._pieces), []
        if self._kind is CallArguments:
            self._events.append(CallArguments(self._calls, text))
        elif self._kind is Reasoning:
            self._events.append(Reasoning(text))
        else:
            self._events.append(Content(text))
