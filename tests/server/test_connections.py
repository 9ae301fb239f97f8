"""What happens on the wire: clients that leave, silent streams, odd bodies, many sockets."""

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx
import pytest

from dflash_serve.engine.types import EngineRequest, FinishReason
from dflash_serve.server.lifecycle import bind
from dflash_serve.server.settings import Settings
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
    lines = [f"POST {URL} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(content)}", *headers]
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
    json_type = {"Content-Type": "application/json"}
    answer = httpx.post(url + URL, content=pieces, headers=json_type, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


def test_one_connection_serves_many_requests(engine: FakeEngine, url: str) -> None:
    with connect(url) as wire, wire.makefile("rb") as reader:
        for body in (GOOD, GOOD | {"n": 0}, GOOD):
            wire.sendall(raw_request(body))
            head = b"".join(iter(reader.readline, b"\r\n")).decode().lower()
            length = int(head.split("content-length: ")[1].split("\r\n")[0])
            assert set(json.loads(reader.read(length))) & {"choices", "error"}
    assert len(engine.requests) == 2


def answers(wire: socket.socket, reader: BinaryIO, sent: bytes) -> tuple[int, Any]:
    """Status and JSON of the answer to ``sent``."""
    wire.sendall(sent)
    head = b"".join(iter(reader.readline, b"\r\n")).decode().lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    return int(head.split()[1]), json.loads(reader.read(length))


def test_a_connection_goes_on_after_every_refusal(tokenizer: ChatTokenizer) -> None:
    """Also where the body of the refused request was never read."""
    engine = FakeEngine(saying(tokenizer, "hello"))
    key = "Authorization: bearer k"
    large = GOOD | {"user": "x" * 200_000}
    app = make_app(engine, tokenizer, api_key="k", max_body_bytes=100_000)
    with serving(app) as url, connect(url) as wire, wire.makefile("rb") as reader:
        for sent, status in (
            (raw_request(GOOD, key), 200),
            (raw_request(GOOD), 401),
            (raw_request(large), 401),
            (raw_request(GOOD, key), 200),
            (raw_request(large, key), 413),
            (raw_request(GOOD | {"n": 0}, key), 400),
            (raw_request(GOOD, key).replace(URL.encode(), b"/nowhere"), 404),
            (raw_request(GOOD, key), 200),
        ):
            seen, answer = answers(wire, reader, sent)
            assert seen == status
            assert ("error" in answer) == (status != 200)
    assert len(engine.requests) == 3


def test_requests_sent_ahead_are_answered_in_order(engine: FakeEngine, url: str) -> None:
    with connect(url) as wire, wire.makefile("rb") as reader:
        ahead = raw_request(GOOD) + raw_request(GOOD | {"n": 0}) + raw_request(GOOD)
        seen = [
            answers(wire, reader, ahead),
            answers(wire, reader, b""),
            answers(wire, reader, b""),
        ]
    assert [status for status, _ in seen] == [200, 400, 200]
    assert len(engine.requests) == 2


def test_http_1_0_is_answered_and_closed(url: str) -> None:
    with connect(url) as wire, wire.makefile("rb") as reader:
        status, answer = answers(wire, reader, raw_request(GOOD).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert status == 200
        assert answer["choices"][0]["message"]["content"] == "hello"
        assert reader.read() == b""


def test_a_body_sent_slowly(engine: FakeEngine, url: str) -> None:
    sent = raw_request(GOOD)
    with connect(url) as wire, wire.makefile("rb") as reader:
        for at in range(0, len(sent) - 9, 9):
            wire.sendall(sent[at : at + 9])
            time.sleep(0.005)
        status, _ = answers(wire, reader, sent[at + 9 :])
    assert status == 200
    assert len(engine.requests) == 1


def test_small_packets_are_sent_at_once() -> None:
    """Without TCP_NODELAY a kept-alive connection waits for delayed acknowledgements."""

    async def test() -> int:
        nodelay: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            wire = writer.get_extra_info("socket")
            nodelay.set_result(wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = bind(Settings(port=0))
        async with await asyncio.start_server(accepted, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            value = await nodelay
            writer.close()
            await writer.wait_closed()
        return value

    assert asyncio.run(asyncio.wait_for(test(), 60)) != 0


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


def test_a_stream_without_keep_alive_is_a_stream(tokenizer: ChatTokenizer) -> None:
    engine = FakeEngine(saying(tokenizer, "hello"))
    with serving(make_app(engine, tokenizer, keep_alive=0)) as url:
        answer = httpx.post(url + URL, json=GOOD | {"stream": True}, timeout=60)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert ": keep-alive" not in answer.text
