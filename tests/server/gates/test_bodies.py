"""What a body must be before it is read: JSON, of bounded size, and sent at some pace."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from dflash_serve.server.errors import ApiError
from dflash_serve.server.gates.bodies import LimitBody
from dflash_serve.server.pace import Pace
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, asked, eventually, make_app, saying, serving

CHAT = "/v1/chat/completions"
CONTENT = json.dumps(
    {"model": "fake/model", "messages": [{"role": "user", "content": "hi"}]}
).encode()


@pytest.fixture(scope="module")
def client(tokenizer: ChatTokenizer) -> Iterator[httpx.Client]:
    app = make_app(FakeEngine(saying(tokenizer, "hello")), tokenizer)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def post(client: httpx.Client, kind: str | None, path: str = CHAT) -> httpx.Response:
    headers = {} if kind is None else {"Content-Type": kind}
    return client.post(path, content=CONTENT, headers=headers)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/json;charset=utf-8",
        "application/problem+json",
    ],
)
def test_json_is_taken(client: httpx.Client, kind: str) -> None:
    assert post(client, kind).status_code == 200


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "text/plain; application/json",
        "x+json",
        "",
        None,
    ],
)
def test_any_other_type_is_refused_by_name(client: httpx.Client, kind: str | None) -> None:
    answer = post(client, kind)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (415, "unsupported_media_type")
    assert (kind or "") in error["message"]
    assert "'Content-Type: application/json'" in error["message"]
    assert ("curl" in error["message"]) is (kind == "application/x-www-form-urlencoded")
    fault = post(client, kind, "/v1/messages")
    assert (fault.status_code, fault.json()["type"]) == (415, "error")


def test_a_body_in_chunks_needs_a_type_too(client: httpx.Client) -> None:
    assert client.post(CHAT, content=iter([CONTENT])).status_code == 415


def test_no_body_needs_no_type(client: httpx.Client) -> None:
    answer = client.post(CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert client.get("/v1/models").status_code == 200


def unread(url: str, *headers: str) -> bytes:
    """The answer to a request that announces a body and never sends it."""
    parts = urlsplit(url)
    lines = [f"POST {CHAT} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as wire:
        wire.sendall("\r\n".join([*lines, "", ""]).encode())
        return wire.makefile("rb").read()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Content-Length: 100"], 401),
        (["Content-Length: 100", "Authorization: Bearer k"], 415),
        (
            ["Content-Length: 9999", "Authorization: Bearer k", "Content-Type: application/json"],
            413,
        ),
        (["Content-Length: 100", "Origin: http://evil.example"], 403),
    ],
)
def test_a_refusal_does_not_wait_for_the_body(
    tokenizer: ChatTokenizer, headers: list[str], status: int
) -> None:
    engine = FakeEngine(saying(tokenizer, "hello"))
    app = make_app(engine, tokenizer, api_key="k", max_body_bytes=2000)
    with serving(app) as url:
        answer = unread(url, *headers)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


async def reads_its_body(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that tells how long its body was, or the error that reading it was."""
    try:
        taken: Any = len(await Request(scope, receive).body())
    except ApiError as error:
        await error.response()(scope, receive, send)
    else:
        await JSONResponse(taken)(scope, receive, send)


def begun(url: str, body: bytes, length: int) -> bytes:
    """The answer to a request of whose body only the beginning is sent."""
    parts = urlsplit(url)
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as wire:
        wire.sendall(head.encode() + body)
        return wire.makefile("rb").read()


def test_a_body_that_stalls_is_given_up() -> None:
    with serving(LimitBody(reads_its_body, 1000, Pace(grace=0.1, rate=100))) as url:
        head, _, body = begun(url, b"12345", 100).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert error["code"] == "request_timeout"
    assert "5 bytes in 0.15 seconds" in error["message"]


def test_bytes_that_come_buy_time() -> None:
    assert Pace(grace=2.0, rate=100).seconds(0) == 2.0
    assert Pace(grace=2.0, rate=100).seconds(450) == 6.5


def test_a_whole_body_is_not_timed() -> None:
    """An answer may take its time: `receive` then waits for the client to leave."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        seen.append(await request.body())
        seen.append((await request.receive())["type"])
        await JSONResponse(None)(scope, receive, send)

    seen: list[Any] = []
    limited = LimitBody(app, 1000, Pace(grace=0.05, rate=10**6))
    with serving(limited) as url, asked(url, "/", b"x"):
        eventually(lambda: seen)
        time.sleep(0.2)  # the body's time is over
        assert seen == [b"x"]
    assert seen == [b"x", "http.disconnect"]  # the server has waited for the app's end
