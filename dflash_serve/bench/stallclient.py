"""Clients of a server whose streams are watched: readers in a process of their own, large bodies.

Times are those of `time.perf_counter`, which all processes of a machine share.
"""

import asyncio
import contextlib
import http.client
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.rawstream import raw_stream
from dflash_serve.measure.endpoint import headers

Arrivals = list[list[float]]
"""For each stream that was read, when its chunks came."""
_TIMEOUT = 120.0


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
    chat, raw = "/v1/chat/completions", "/v1/completions"
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
        wire.request(
            "POST", body.path, body.content, {"Content-Type": "application/json", **headers(key)}
        )
        answer = wire.getresponse()
        answer.read()
        return Window(begin, time.perf_counter()), answer.status
    except OSError as error:
        raise BenchError(f"{body.path}: {error}") from error
    finally:
        wire.close()


def longest_gap(arrivals: Arrivals, window: Window) -> float:
    """Seconds of the longest wait for a chunk that fell into ``window`` at least in part."""
    return max(
        (
            later - earlier
            for stream in arrivals
            for earlier, later in itertools.pairwise(stream)
            if earlier < window.end and later > window.begin
        ),
        default=0.0,
    )


class Readers:
    """``streams`` clients that read one stream after the other, until they are asked for times."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def stop(self) -> Arrivals:
        """End them; when their chunks came.

        Raises:
            BenchError: one of them was refused.
        """
        self._connection.send(None)
        try:
            found: Arrivals | str = self._connection.recv()
        except EOFError:
            raise BenchError("the readers of the streams ended early") from None
        if isinstance(found, str):
            raise BenchError(found)
        return found


@contextlib.contextmanager
def reading(port: int, model: str, streams: int) -> Iterator[Readers]:
    """Streams that run side by side, read by another process."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    reader = spawn.Process(target=read_all, args=(port, model, streams, there), daemon=True)
    reader.start()
    there.close()
    try:
        yield Readers(here)
    finally:
        here.close()
        reader.terminate()
        reader.join()


def read_all(port: int, model: str, streams: int, connection: Connection) -> None:
    """The readers' process: reads until something arrives on ``connection``, then answers."""
    try:
        found: Arrivals | str = asyncio.run(_read_all(port, model, streams, connection))
    except (OSError, BenchError) as error:
        found = f"a stream could not be read: {error}"
    connection.send(found)


async def _read_all(port: int, model: str, streams: int, connection: Connection) -> Arrivals:
    arrivals: Arrivals = []
    readers = [
        asyncio.create_task(_read_on(port, model, number, arrivals)) for number in range(streams)
    ]
    told = asyncio.create_task(asyncio.to_thread(connection.poll, None))
    await asyncio.wait([told, *readers], return_when=asyncio.FIRST_COMPLETED)
    for reader in readers:
        if reader.done():
            reader.result()  # raises: they do not end by themselves
        reader.cancel()
    await asyncio.wait(readers)
    return arrivals


async def _read_on(port: int, model: str, number: int, arrivals: Arrivals) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell me a story about {number} rivers."}],
        "max_tokens": 1500,
        "ignore_eos": True,
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
