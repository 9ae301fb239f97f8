"""What happens on the wire: clients that leave, silent streams, odd bodies, many sockets."""

import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from dflash_serve.engine.types import EngineRequest, FinishReason
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, Script, eventually, make_app, saying, serving

URL = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "fake/model", "messages": [{"role": "user", "content": "hi"}]}
HANG = Script(hang=True)


@pytest.fixture(scope="module")
def served(tokenizer: ChatTokenizer) -> Iterator[tuple[FakeEngine, str]]:
    engine = FakeEngine(saying(tokenizer, "hello"))
    with serving(make_app(engine, tokenizer, keep_alive=0.02)) as url:
        yield engine, url


@pytest.fixture
def engine(served: tuple[FakeEngine, str], tokenizer: ChatTokenizer) -> FakeEngine:
    served[0].reset(saying(tokenizer, "hello"))
    return served[0]


@pytest.fixture
def url(served: tuple[FakeEngine, str], engine: FakeEngine) -> str:
    return served[1]


def raw_request(body: dict[str, Any], *headers: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [f"POST {URL} HTTP/1.1", "Host: x", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def all_freed(engine: FakeEngine, count: int) -> None:
    eventually(lambda: len(engine.played) == count)
    assert engine.live == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_frees_its_rows(
    engine: FakeEngine, url: str, stream: bool, n: int
) -> None:
    engine.script = lambda request: HANG
    with connect(url) as wire:
        wire.sendall(raw_request(GOOD | {"stream": stream, "n": n}))
        eventually(lambda: engine.live == n)
    all_freed(engine, n)
    assert sorted(engine.aborted) == sorted(request.id for request in engine.requests)


def test_leaving_in_the_middle_of_a_stream(
    engine: FakeEngine, url: str, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, "some words", hang=True)
    with (
        httpx.Client(base_url=url, timeout=60) as client,
        client.stream("POST", URL, json=GOOD | {"stream": True}) as answer,
    ):
        lines = answer.iter_lines()
        assert any("some" in line for line in lines)
    all_freed(engine, 1)
    assert len(engine.aborted) == 1


def test_leaving_before_the_body_is_complete(engine: FakeEngine, url: str) -> None:
    with connect(url) as wire:
        wire.sendall(raw_request(GOOD)[:-5])
    assert httpx.post(url + URL, json=GOOD, timeout=60).status_code == 200
    assert len(engine.requests) == 1


def test_a_silent_stream_carries_comments(engine: FakeEngine, url: str) -> None:
    engine.script = lambda request: HANG
    with (
        httpx.Client(base_url=url, timeout=60) as client,
        client.stream("POST", URL, json=GOOD | {"stream": True}) as answer,
    ):
        comments = (line for line in answer.iter_lines() if line == ": keep-alive")
        assert [next(comments) for _ in range(3)]
    all_freed(engine, 1)


def test_a_body_in_chunks(url: str) -> None:
    content = json.dumps(GOOD).encode()
    pieces = (content[at : at + 7] for at in range(0, len(content), 7))
    answer = httpx.post(url + URL, content=pieces, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


def test_one_connection_serves_many_requests(engine: FakeEngine, url: str) -> None:
    with connect(url) as wire, wire.makefile("rb") as reader:
        for body in (GOOD, GOOD | {"n": 0}, GOOD):
            wire.sendall(raw_request(body))
            head = b"".join(iter(reader.readline, b"\r\n")).decode().lower()
            length = int(head.split("content-length: ")[1].split("\r\n")[0])
            assert set(json.loads(reader.read(length))) & {"choices", "error"}
    assert len(engine.requests) == 2


def test_a_burst_of_64_connections(engine: FakeEngine, url: str) -> None:
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(connect(url)) for _ in range(64)]
        for wire in wires:
            wire.sendall(raw_request(GOOD | {"stream": True}, "Connection: close"))
        for wire in wires:
            reader = stack.enter_context(wire.makefile("rb"))
            assert b"data: [DONE]\n\n" in reader.read()
    all_freed(engine, 64)


def test_500_requests_of_which_many_leave_free_every_row(
    engine: FakeEngine, url: str, tokenizer: ChatTokenizer
) -> None:
    def script(request: EngineRequest) -> Script:
        number = len(engine.requests)
        return HANG if number % 3 == 0 else saying(tokenizer, "hello")(request)

    engine.script = script
    for _ in range(10):
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(connect(url)) for _ in range(50)]
            for at, wire in enumerate(wires):
                wire.sendall(raw_request(GOOD | {"stream": at % 2 == 0}))
            for wire in wires[::4]:
                assert wire.recv(10)
    eventually(lambda: httpx.get(url + "/health", timeout=60).json()["free_slots"] == 8)
    eventually(lambda: len(engine.played) == len(engine.requests))


def test_each_request_leaves_one_line_in_the_log(
    engine: FakeEngine, url: str, tokenizer: ChatTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.name == "dflash_serve.request"]

    caplog.set_level(logging.INFO, "dflash_serve.request")
    answer = httpx.post(url + URL, json=GOOD | {"n": 2}, timeout=60).json()
    eventually(lambda: len(lines()) == 1)
    usage = answer["usage"]
    line = lines()[0]
    assert line.startswith(answer["id"])
    for fact in (
        f"prompt={usage['prompt_tokens']}",
        f"completion={usage['completion_tokens']}",
        "rounds=",
        "tokens_per_round=",
        "ttft=0.010s",
        "tokens_per_second=",
        "finish=stop,stop",
    ):
        assert fact in line
    engine.script = saying(tokenizer, "hi", finish=FinishReason.ERROR)
    httpx.post(url + URL, json=GOOD | {"stream": True}, timeout=60)
    eventually(lambda: len(lines()) == 2)
    assert lines()[1].endswith("finish=error")
    engine.script = lambda request: HANG
    with connect(url) as wire:
        wire.sendall(raw_request(GOOD))
        eventually(lambda: engine.live == 1)
    eventually(lambda: len(lines()) == 3)
    assert lines()[2].endswith("finish=aborted")
