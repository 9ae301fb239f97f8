"""Refusals of a server that is full, loading or out of connections: before any work."""

import socket
from urllib.parse import urlsplit

import httpx
import pytest

from dflash_serve.engine.errors import EngineError, EngineUnavailable, QueueFull
from dflash_serve.server.connection import ConnectionLimits
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, Script, eventually, make_app, saying, serving

GENERATE = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]
FULL = QueueFull("9 requests are running or waiting, and the limit is 9.", 2)
LOADING = EngineUnavailable("The engine is loading.")


def unsent(url: str, path: str) -> tuple[bytes, bytes]:
    """Head and body of the answer to a request whose body is announced and never sent."""
    parts = urlsplit(url)
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += ["Content-Length: 1000000", "Connection: close", "", ""]
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as wire:
        wire.sendall("\r\n".join(lines).encode())
        head, _, body = wire.makefile("rb").read().partition(b"\r\n\r\n")
        return head.lower(), body


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize(
    ("error", "code"), [(FULL, b"queue_full"), (LOADING, b"engine_unavailable")]
)
def test_a_full_queue_is_told_before_the_body_is_read(
    tokenizer: ChatTokenizer, path: str, error: EngineError, code: bytes
) -> None:
    engine = FakeEngine(saying(tokenizer, "hello"), full=error)
    with serving(make_app(engine, tokenizer)) as url:
        head, body = unsent(url, path)
    anthropic = path == "/v1/messages"
    overloaded = anthropic and error is FULL
    assert head.startswith(b"http/1.1 529" if overloaded else b"http/1.1 503")
    assert (b"retry-after: 2" in head) is (error is FULL)
    assert anthropic or code in body
    assert str(error).encode() in body


def test_what_needs_no_queue_is_answered(tokenizer: ChatTokenizer) -> None:
    engine = FakeEngine(saying(tokenizer, "hello"), full=FULL)
    with (
        serving(make_app(engine, tokenizer)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        assert client.post("/tokenize", json={"prompt": "hello"}).status_code == 200
        asked = {"model": "fake/model", "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/messages/count_tokens", json=asked).status_code == 200
        assert client.get("/v1/models").status_code == client.get("/health").status_code == 200


def test_connections_beyond_the_limit_are_told(tokenizer: ChatTokenizer) -> None:
    """With 503 and a close, but health; what was there before goes on."""
    engine = FakeEngine(lambda request: Script(hang=True))
    app = make_app(engine, tokenizer, cors_origin=("http://ui.example",))
    asked = {"model": "fake/model", "messages": [{"role": "user", "content": "hi"}]}
    with (
        serving(app, ConnectionLimits(connections=2)) as url,
        httpx.Client(base_url=url, timeout=60) as first,
        httpx.Client(base_url=url, timeout=60) as second,
    ):
        assert first.get("/v1/models").status_code == 200
        with second.stream("POST", GENERATE[0], json=asked | {"stream": True}) as stream:
            lines = stream.iter_lines()
            assert next(lines)
            page = {"Origin": "http://ui.example"}
            refused = httpx.get(f"{url}/v1/models", headers=page, timeout=60)
            assert (refused.status_code, refused.headers["connection"]) == (503, "close")
            assert int(refused.headers["retry-after"]) > 0
            assert refused.headers["access-control-allow-origin"] == "http://ui.example"
            assert refused.json()["error"]["code"] == "too_many_connections"
            message = httpx.post(f"{url}/v1/messages", json=asked, timeout=60)
            assert message.json()["error"]["type"] == "overloaded_error"
            assert httpx.get(f"{url}/health", timeout=60).status_code == 200
            assert first.get("/v1/models").status_code == 200
            assert engine.live == 1
        eventually(lambda: httpx.get(f"{url}/v1/models", timeout=60).status_code == 200)


def test_far_beyond_the_limit_connections_are_closed_unheard(tokenizer: ChatTokenizer) -> None:
    engine = FakeEngine(saying(tokenizer, "hello"))
    with serving(make_app(engine, tokenizer), ConnectionLimits(connections=1)) as url:
        parts = urlsplit(url)
        wires = [socket.create_connection((parts.hostname, parts.port)) for _ in range(100)]
        try:
            closed = 0
            for wire in wires:
                wire.settimeout(60)
                try:
                    wire.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    closed += not wire.recv(1)
                except ConnectionError:
                    closed += 1
            assert closed == 100 - 1 - 64
        finally:
            for wire in wires:
                wire.close()
