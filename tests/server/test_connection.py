"""Clients that are too slow, or read nothing: what they hold is given back."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from dflash_serve.server.connection import CROWDED, Connection, ConnectionLimits
from dflash_serve.server.lifecycle import http_config
from dflash_serve.server.pace import Pace
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, Script, blocks, eventually, make_app, saying, serving

HASTY = ConnectionLimits(head_seconds=0.4, send_seconds=0.2, pace=Pace(grace=0.1, rate=10**6))
"""A body of which 65,536 bytes are here may take 1.2 seconds, one of them the server's own."""
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(url: str, *, buffer: int | None = None) -> socket.socket:
    parts = urlsplit(url)
    wire = socket.socket()
    if buffer is not None:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    wire.settimeout(60)
    wire.connect((parts.hostname, parts.port))
    return wire


def to_its_end(wire: socket.socket) -> bytes:
    """What the server still sends before it closes."""
    seen = b""
    try:
        while piece := wire.recv(65536):
            seen += piece
    except ConnectionResetError:
        pass
    return seen


def until(wire: socket.socket, end: bytes) -> bytes:
    """What the server sends, up to ``end``."""
    seen = b""
    while not seen.endswith(end):
        piece = wire.recv(65536)
        assert piece, seen
        seen += piece
    return seen


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers at once, whatever the body."""
    await PlainTextResponse("no")(scope, receive, send)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(refuses, HASTY) as url:
        yield url


def test_a_head_that_does_not_come_ends_the_connection(url: str) -> None:
    """Of the first request and of the next one."""
    firsts = [(False, sent) for sent in (b"", b"\r\n", b"GET / HT", GET[:-2], GET[:-2] + b"A: ")]
    nexts = [(True, sent) for sent in (b"\r\n", b"G", GET[:-2])]
    wires: dict[tuple[bool, bytes], socket.socket] = {}
    with contextlib.ExitStack() as stack:
        for answered, sent in [*firsts, *nexts]:
            wires[answered, sent] = wire = stack.enter_context(connect(url))
            if answered:
                wire.sendall(GET)
                until(wire, b"no")
            wire.sendall(sent)
        ends = {case: to_its_end(wire) for case, wire in wires.items()}
    assert ends == dict.fromkeys(wires, b"")


def test_headers_have_a_bound(url: str) -> None:
    with connect(url) as wire:
        wire.sendall(GET[:-2])
        try:
            for _ in range(200):
                wire.sendall(b"A: " + b"x" * 1000 + b"\r\n")
        except ConnectionError:
            pass  # closed while this client still wrote
        else:
            assert to_its_end(wire).startswith(b"HTTP/1.1 400 ")


@pytest.fixture
def patient_wire() -> Iterator[socket.socket]:
    """To a server whose bounds on sending are short, but for the head of a request."""
    limits = ConnectionLimits(pace=Pace(grace=0.1, rate=10**6), head_seconds=60)
    with serving(refuses, limits) as url, connect(url) as wire:
        yield wire


def test_a_refused_body_is_not_awaited_for_ever(patient_wire: socket.socket) -> None:
    """The answer came long ago; a body that is sent byte by byte would hold the connection."""
    patient_wire.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
    assert to_its_end(patient_wire).startswith(b"HTTP/1.1 200 ")


def late(seconds: float) -> ASGIApp:
    """An app that reads the body and answers with the path, at "/" ``seconds`` later."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await asyncio.sleep(seconds if scope["path"] == "/" else 0)
        await PlainTextResponse(scope["path"])(scope, receive, send)

    return app


def test_an_answer_may_take_longer_than_any_of_it() -> None:
    """The beginning of another request, of which no more comes, ends the connection after it."""
    with serving(late(0.6), HASTY) as url, connect(url) as wire:
        wire.sendall(GET)
        until(wire, b"\r\n\r\n/")
        wire.sendall(GET + b"GET /")
        until(wire, b"\r\n\r\n/")
        assert to_its_end(wire) == b""


def test_requests_sent_ahead_may_wait_for_their_turn() -> None:
    """For longer than the second body may take to come."""
    body = b"x" * 1_000_000
    ahead = b"POST /2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + body
    with serving(late(1.3), HASTY) as url, connect(url) as wire:
        wire.sendall(GET + ahead)
        seen = until(wire, b"/2")
        wire.sendall(GET.replace(b"GET /", b"GET /3"))  # the connection goes on
        until(wire, b"\r\n\r\n/3")
    assert seen.count(b"HTTP/1.1 200 ") == 2


PIECE = b"x" * 65536


class Endless:
    """An app that sends for ever; ``sent`` counts bytes, ``left`` the requests that ended."""

    def __init__(self) -> None:
        self.sent = 0
        self.left = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.create_task(self._gone(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            self.sent += len(PIECE)
            await asyncio.sleep(0)
        self.left += 1

    async def _gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    app = Endless()
    with serving(app, HASTY) as url, connect(url, buffer=4096) as wire:
        wire.sendall(GET)
        eventually(lambda: app.left == 1)


class Draining(asyncio.Transport):
    """A transport whose unsent bytes become fewer each time that somebody looks."""

    def __init__(self, sizes: Sequence[int], aborted: asyncio.Event) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self._aborted = aborted

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Not used: the test pauses by itself."""

    def get_write_buffer_size(self) -> int:
        return self.sizes.pop(0) if len(self.sizes) > 1 else self.sizes[0]

    def is_reading(self) -> bool:
        return True

    def abort(self) -> None:
        self._aborted.set()

    def close(self) -> None:
        """Nothing is open."""


def test_a_client_that_reads_slowly_is_not() -> None:
    """As long as it goes on reading; each look is one interval without an empty buffer."""

    async def test() -> list[int]:
        aborted = asyncio.Event()
        transport = Draining(range(1_000_000, 0, -100_000), aborted)
        limits = ConnectionLimits(send_seconds=0.001)
        connection = Connection(limits, http_config(refuses), ServerState(), {})
        connection.connection_made(transport)
        connection.pause_writing()
        await aborted.wait()
        connection.connection_lost(None)
        return transport.sizes

    assert asyncio.run(asyncio.wait_for(test(), 60)) == [100_000]


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    """Whole answers too, after which the server has nothing more to do on the connection."""
    size = 50_000_000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        crowded = scope["path"] == "/crowded"
        text = str(scope["state"][CROWDED]) if crowded else "x" * size
        await PlainTextResponse(text)(scope, receive, send)

    limits = ConnectionLimits(connections=1, send_seconds=0.2)
    with serving(app, limits) as url, connect(url, buffer=4096) as wire:
        wire.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert wire.recv(1)
        eventually(lambda: httpx.get(f"{url}/crowded", timeout=60).text == "False")
        assert len(to_its_end(wire)) < size


def test_cutting_off_ends_the_generation(tokenizer: ChatTokenizer) -> None:
    """A stream of 20 log-probabilities per token, of which nothing is read."""
    ids = tokenizer.backend.encode("hello world " * 5000, add_special_tokens=False).ids
    engine = FakeEngine(lambda request: Script(blocks(ids), hang=True), max_context=100_000)
    asked: dict[str, Any] = {
        "model": "fake/model",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "logprobs": True,
        "top_logprobs": 20,
    }
    body = json.dumps(asked).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    with serving(make_app(engine, tokenizer), HASTY) as url, connect(url, buffer=4096) as wire:
        wire.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        eventually(lambda: engine.requests)
        eventually(lambda: engine.live == 0)
        assert len(engine.aborted) == 1
        engine.script = saying(tokenizer, "hello")
        again = asked | {"stream": False, "logprobs": False, "top_logprobs": None}
        answer = httpx.post(f"{url}/v1/chat/completions", json=again, timeout=60).json()
        assert answer["choices"][0]["message"]["content"] == "hello"
