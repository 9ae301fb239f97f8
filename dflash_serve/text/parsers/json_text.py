"""JSON values copied as they arrive, and calls that are written as JSON objects. Pure.

Knows what a call object's members are; the markup around it belongs to the families' files.
"""

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from dflash_serve.text.parsers.reader import Markers, Output, Reader, Sink, Step, Unparsed

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_CONTROL = re.compile(r"[\x00-\x1f]+")
_HEX = re.compile(r"[0-9a-fA-F]")
_SCALAR = re.compile(r"[-+.0-9A-Za-z]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_BARE_KEY = re.compile(r"[^\s:,{}\[\]\"]+")
_DEPTH = 128
"""Brackets inside brackets."""
_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class Notation:
    """How strings and keys are written: between ``quotes``, keys perhaps without any."""

    quotes: tuple[str, ...] = ('"',)
    bare_keys: bool = False


JSON = Notation()


def escape(text: str) -> str:
    """``text`` as it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def loads(text: str) -> Any:
    """The value of JSON text.

    Raises:
        Unparsed: it is none, or one that no JSON reader takes.
    """
    try:
        text.encode()  # half a surrogate pair is no text
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Unparsed from error


def _refuse(name: str) -> None:
    raise ValueError(name)


def copy_value(reader: Reader, sink: Sink, notation: Notation = JSON) -> Step[None]:
    """Copy one value as JSON. Control characters inside strings, a slip of models, are escaped."""
    open_: list[str] = []
    while True:
        char = yield from _space(reader, sink)
        if char in ("{", "["):
            open_.append("}" if char == "{" else "]")
            if len(open_) > _DEPTH:
                raise Unparsed
            sink(reader.take())
            if (yield from _space(reader, sink)) != open_[-1]:
                yield from _key(reader, sink, notation, open_[-1])
                continue
        else:
            yield from _scalar(reader, sink, notation)
        if not (yield from _close(reader, sink, open_)):
            return
        yield from _space(reader, sink)
        yield from _key(reader, sink, notation, open_[-1])


def _close(reader: Reader, sink: Sink, open_: list[str]) -> Step[bool]:
    """Behind a value: read brackets that close, and a comma. Whether another value follows."""
    while open_:
        char = yield from _space(reader, sink)
        if char == ",":
            sink(reader.take())
            return True
        if not char or char != open_[-1]:
            raise Unparsed
        sink(reader.take())
        open_.pop()
    return False


def _space(reader: Reader, sink: Sink) -> Step[str]:
    char = yield from reader.peek()
    while char and char in " \t\r\n":
        sink(reader.take())
        char = yield from reader.peek()
    return char


def _key(reader: Reader, sink: Sink, notation: Notation, closer: str) -> Step[None]:
    """Copy a key and its colon where an object's member begins."""
    if closer == "]":
        return
    if not (yield from _string(reader, sink, notation)):
        if not notation.bare_keys:
            raise Unparsed
        sink(f'"{escape((yield from reader.word(_BARE_KEY)))}"')
    yield from _space(reader, sink)
    yield from reader.literal(":")
    sink(":")


def _scalar(reader: Reader, sink: Sink, notation: Notation) -> Step[None]:
    if (yield from _string(reader, sink, notation)):
        return
    word = yield from reader.word(_SCALAR)
    if word not in ("true", "false", "null") and not _NUMBER.fullmatch(word):
        raise Unparsed
    sink(word)


def _string(reader: Reader, sink: Sink, notation: Notation) -> Step[bool]:
    """Copy a string, if one comes."""
    for quote in notation.quotes:
        if not (yield from reader.sees(quote)):
            continue
        reader.take(len(quote))
        sink('"')
        if quote == '"':
            yield from _quoted(reader, sink)
        elif not (yield from reader.until(_marker(quote), lambda text: sink(escape(text)))):
            raise Unparsed
        sink('"')
        return True
    return False


@functools.cache
def _marker(text: str) -> Markers:
    return Markers((text,))


def _quoted(reader: Reader, sink: Sink) -> Step[None]:
    """Copy the inside of a JSON string and read the quote that ends it."""
    while True:
        yield from reader.run(_PLAIN, sink)
        char = yield from reader.peek()
        if char == "\\":
            sink((yield from _escaped(reader)))
        elif char == '"':
            reader.take()
            return
        elif char:
            yield from reader.run(_CONTROL, lambda text: sink(escape(text)))
        else:
            raise Unparsed


def _escaped(reader: Reader) -> Step[str]:
    text = reader.take()
    char = yield from reader.peek()
    if not char or char not in '"\\/bfnrtu':
        raise Unparsed
    text += reader.take()
    if char == "u":
        for _ in range(4):
            if not _HEX.match((yield from reader.peek())):
                raise Unparsed
            text += reader.take()
    return text


def read_string(reader: Reader) -> Step[str]:
    """Read a JSON string; its value."""
    pieces: list[str] = []
    if not (yield from _string(reader, pieces.append, JSON)):
        raise Unparsed
    return str(json.loads("".join(pieces)))


class _Call:
    """One call object while it is read: arguments wait for the name, if that comes later."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._held: list[str] = []
        self.name: str | None = None
        self.has_arguments = False

    def named(self, name: str) -> None:
        self.name = self._output.tool(name).name
        if self.has_arguments:
            self.start()

    def start(self) -> None:
        """The arguments begin, or have begun."""
        self.has_arguments = True
        if self.name is not None:
            self._output.begin(self.name)
            for piece in self._held:
                self._output.arguments(piece)

    def add(self, text: str) -> None:
        if self.name is None:
            self._held.append(text)
        else:
            self._output.arguments(text)


def read_call(reader: Reader, output: Output, *, needs_arguments: bool = False) -> Step[None]:
    """Read ``{"name": ..., "arguments": {...}}``; its other members are skipped."""
    call = _Call(output)
    yield from reader.literal("{")
    while True:
        yield from reader.spaces()
        key = yield from read_string(reader)
        yield from reader.spaces()
        yield from reader.literal(":")
        yield from reader.spaces()
        if key == "name" and call.name is None:
            call.named((yield from read_string(reader)))
        elif key in _ARGUMENTS and not call.has_arguments:
            yield from _arguments(reader, call)
        else:
            yield from copy_value(reader, _drop)
        if (yield from reader.spaces()) != ",":
            break
        reader.take()
    yield from reader.literal("}")
    if call.name is None or (needs_arguments and not call.has_arguments):
        raise Unparsed
    if not call.has_arguments:
        call.start()
        call.add("{}")
    output.done()


def _drop(text: str) -> None:
    """Text that is not part of the call."""


def _arguments(reader: Reader, call: _Call) -> Step[None]:
    """Pass an object on as it comes; JSON text inside a string, once it is whole."""
    char = yield from reader.peek()
    if char == "{":
        call.start()
        yield from copy_value(reader, call.add)
        return
    if char == '"':
        text = (yield from read_string(reader)).strip() or "{}"
        if not isinstance(loads(text), dict):
            raise Unparsed
    else:
        yield from reader.literal("null")
        text = "{}"
    call.start()
    call.add(text)


def read_calls(reader: Reader, output: Output, *, needs_arguments: bool = False) -> Step[None]:
    """Read one call, an array of them, or several one after the other, also between ``;``."""
    array = (yield from reader.spaces()) == "["
    if array:
        reader.take()
        yield from reader.spaces()
    while True:
        yield from read_call(reader, output, needs_arguments=needs_arguments)
        char = yield from reader.spaces()
        if char == ("," if array else ";"):
            reader.take()
            if not (yield from reader.spaces()):
                return
        elif array or char != "{":
            if array:
                yield from reader.closing("]")
            return
