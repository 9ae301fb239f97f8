"""Clients of a server that is measured: large bodies, and readers in a process of their own.

A client that shared a server's interpreter would wait for it. Imports no MLX.

Times are those of `time.perf_counter`, which all processes of a machine share.
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from threading import Event
from typing import Any

from dflash_serve.bench.errors import BenchError
from dflash_serve.measure.endpoint import headers

Arrivals = list[list[float]]
"""For each stream that was read, when its chunks came."""
_TIMEOUT = 120.0
_CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Body:
    """A request: of `bodies` one that a server refuses after it has looked at all of it."""

    name: str
    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in seconds."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def bodies(model: str, size: int) -> list[Body]:
    """One of each kind of body, each of at most ``size`` bytes."""
    chat, raw = _CHAT, "/v1/completions"
    words = "The quick brown fox jumps over 42 lazy dogs, and then? \n"
    turn = {"role": "user", "content": "hello there"}
    room = size - 512
    long = [turn | {"content": _filled(words, room)}]
    names = [turn | {"content": _filled("go <|im_end|>", room // 8)}]
    return [
        _body("one long text", chat, {"messages": long}, model),
        _body("short messages", chat, {"messages": [turn] * (room // 44)}, model),
        _body("names of control tokens", chat, {"messages": names}, model),
        _body("token ids", raw, {"prompt": [7] * (room // 3)}, model),
        _body("a text without a template", raw, {"prompt": _filled(words, room)}, model),
    ]


def _filled(words: str, size: int) -> str:
    """``words`` again and again, ``size`` bytes as JSON."""
    return words * (size // len(json.dumps(words)[1:-1]))


def _body(name: str, path: str, fields: dict[str, object], model: str) -> Body:
    return Body(name, path, json.dumps({"model": model} | fields).encode())


def send(port: int, body: Body, key: str | None = None) -> tuple[Window, int]:
    """From the request's first byte to the last of its answer; and the status."""
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    try:
        begin = time.perf_counter()
        head = {"Content-Type": "application/json"} | headers(key)
        wire.request("POST", body.path, body.content, head)
        answer = wire.getresponse()
        answer.read()
        return Window(begin, time.perf_counter()), answer.status
    except OSError as error:
        raise BenchError(f"{body.path}: {error}") from error
    finally:
        wire.close()


def longest_gap(arrivals: Arrivals, window: Window, *, inside: bool = False) -> float:
    """Seconds of the longest wait for a chunk that ``window`` touches, or that lies ``inside``.

    A wait that begins before a disturbance and ends in it is the disturbance's: it lies inside no
    stretch before it.
    """
    return max(
        (
            later - earlier
            for stream in arrivals
            for earlier, later in itertools.pairwise(stream)
            if (
                window.begin <= earlier and later <= window.end
                if inside
                else earlier < window.end and later > window.begin
            )
        ),
        default=0.0,
    )


_SPAWN = multiprocessing.get_context("spawn")


def another_process() -> ProcessPoolExecutor:
    """Does one thing after another, without MLX."""
    return ProcessPoolExecutor(1, _SPAWN)


@dataclass(frozen=True, slots=True)
class Reading:
    """Streams that another process reads. Both calls raise `BenchError` if one cannot be read.

    ``begun`` waits until each stream has given a chunk; ``ended`` stops them and says when theirs
    came.
    """

    begun: Callable[[], None]
    ended: Callable[[], Arrivals]


@contextlib.contextmanager
def reading(port: int, model: str, streams: int) -> Iterator[Reading]:
    """Another process reads ``streams`` at once, each one answer after the other."""
    with _SPAWN.Manager() as shared, another_process() as pool:
        all_run, end = shared.Event(), shared.Event()
        read = pool.submit(_read_on, port, model, streams, all_run, end)

        def begun() -> None:
            if not all_run.wait(_TIMEOUT):
                raise BenchError(f"a stream gave no chunk in {_TIMEOUT:.0f} s")
            if end.is_set():
                read.result()

        def ended() -> Arrivals:
            end.set()
            return read.result()

        try:
            yield Reading(begun, ended)
        finally:
            end.set()


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"a stream could not be read: {error}") from error


def read_streams(port: int, model: str, streams: int) -> None:
    """Read ``streams`` streams at once to their end."""

    async def read() -> None:
        await asyncio.gather(*(_read(port, model) for _ in range(streams)))

    with _readable():
        asyncio.run(read())


def time_request(port: int, body: str) -> tuple[float, float]:
    """Seconds from sending a chat to the first byte and to the first text of its stream.

    On a connection that is kept for the next one.
    """
    with _readable():
        return _timed(_wire(port), body)


@cache
def _wire(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)


def _timed(wire: http.client.HTTPConnection, body: str) -> tuple[float, float]:
    started = time.perf_counter()
    wire.request("POST", _CHAT, body, {"Content-Type": "application/json"})
    answer = wire.getresponse()
    first = time.perf_counter() - started
    text = 0.0
    for line in answer:
        if not text and line.startswith(b"data: {") and _has_text(line):
            text = time.perf_counter() - started
    if answer.status != http.client.OK or not text:
        raise BenchError(f"status {answer.status}, and no text in the stream")
    return first, text


def _has_text(line: bytes) -> bool:
    return any(
        choice["delta"].get("content") or choice["delta"].get("reasoning")
        for choice in json.loads(line[6:])["choices"]
    )


async def _read(port: int, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    async with raw_stream(port, body) as reader:
        seen = await reader.read()
    if b"data: [DONE]" not in seen:
        raise BenchError(f"a stream ended early: {seen[-200:]!r}")


def _read_on(port: int, model: str, streams: int, all_run: Event, end: Event) -> Arrivals:
    arrivals: Arrivals = []
    waiting = set(range(streams))

    def chunk(number: int) -> None:
        if number in waiting:
            waiting.remove(number)
            if not waiting:
                all_run.set()

    async def read() -> None:
        again = (
            _read_again(port, model, number, arrivals, partial(chunk, number))
            for number in range(streams)
        )
        readers = [asyncio.create_task(one) for one in again]
        ended = asyncio.create_task(asyncio.to_thread(end.wait))
        await asyncio.wait([ended, *readers], return_when=asyncio.FIRST_COMPLETED)
        end.set()  # also of the thread above, which would hold up what a reader raises
        all_run.set()
        for reader in readers:
            if reader.done():
                reader.result()  # raises: they do not end by themselves
            reader.cancel()
        await asyncio.wait(readers)

    with _readable():
        asyncio.run(read())
    return arrivals


async def _read_again(
    port: int, model: str, number: int, arrivals: Arrivals, chunk: Callable[[], None]
) -> None:
    """Whole answers only: behind an answer's end a target may say nothing for seconds."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell me a story about {number} rivers."}],
        "max_tokens": 1500,
        "temperature": 0,
    }
    while True:
        times: list[float] = []
        arrivals.append(times)
        async with raw_stream(port, body) as reader:
            status = await reader.readline()
            if b" 200 " not in status:
                raise BenchError(status.decode(errors="replace").strip())
            while data := await reader.read(1 << 16):
                if b"data: {" in data:
                    times.append(time.perf_counter())
                    chunk()


@contextlib.asynccontextmanager
async def raw_stream(port: int, body: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
    """Send ``body`` as a chat request to 127.0.0.1; what comes back, from the status line on."""
    content = json.dumps(body | {"stream": True}).encode()
    head = (
        f"POST {_CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + content)
        yield reader
    finally:
        writer.close()
