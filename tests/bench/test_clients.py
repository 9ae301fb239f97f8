"""The clients of measured servers, against the scripted one: readers in a process of their own."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dflash_serve.bench.clients import another_process, read_streams, reading, time_request
from dflash_serve.bench.errors import BenchError
from tests.bench.test_serve import scripted_app
from tests.fakes import serving


class Seen(list[dict[str, Any]]):
    """Requests; ``several`` is set after three of them."""

    def __init__(self) -> None:
        self.several = threading.Event()

    def append(self, body: dict[str, Any]) -> None:
        super().append(body)
        if len(self) == 3:
            self.several.set()


@pytest.fixture
def server() -> Iterator[tuple[int, Seen]]:
    seen = Seen()
    with serving(scripted_app(seen)) as url:
        yield int(url.rpartition(":")[2]), seen


def test_streams_are_read_one_after_the_other_until_the_end(server: tuple[int, Seen]) -> None:
    port, seen = server
    with reading(port, "scripted", 1) as streams:
        streams.begun()
        assert seen.several.wait(300)
        arrivals = streams.ended()
    assert len(arrivals) >= 3
    assert all(times == sorted(times) for times in arrivals)
    assert any(arrivals)
    assert {body["messages"][0]["content"] for body in seen} == {"Tell me a story about 0 rivers."}
    assert not any("ignore_eos" in body for body in seen), "an answer's end may be silent"


def test_requests_of_another_process(server: tuple[int, Seen]) -> None:
    port, seen = server
    body = {"model": "scripted", "messages": [], "stream": True}
    with another_process() as client:
        client.submit(read_streams, port, "scripted", 2).result()
        first, text = client.submit(time_request, port, json.dumps(body)).result()
        assert 0 < first <= text
        with pytest.raises(BenchError, match="no text in the stream"):
            client.submit(time_request, port, json.dumps(body | {"model": "broken"})).result()
        with pytest.raises(BenchError, match="a stream ended early"):
            client.submit(read_streams, port, "broken", 1).result()
    assert len(seen) == 5


def test_streams_that_cannot_be_read_do_not_begin() -> None:
    with (
        pytest.raises(BenchError, match="a stream could not be read"),
        reading(1, "nobody listens", 1) as streams,
    ):
        streams.begun()
