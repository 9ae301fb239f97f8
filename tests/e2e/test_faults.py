"""A device that fails while a real process serves: who is told what, and how the process ends."""

import json
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Start
from tests.e2e.failing_server import BROKEN, NO_MEMORY
from tests.e2e.server import PairPaths, ServerProcess, all_slots_free, ask, body, wait

MESSAGE = "The server failed while it computed this answer. Please send the request again."


@pytest.fixture
def server(endless_pair: PairPaths, start: Start) -> ServerProcess:
    options = [str(endless_pair.target), str(endless_pair.drafter)]
    return start(*options, module="tests.e2e.failing_server")


def fail(url: str, seed: int) -> httpx.Response:
    """A whole answer that the device fails on."""
    asked = body(temperature=0.5, seed=seed, max_tokens=200)
    return httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60)


def stream(url: str, seed: int) -> list[dict[str, Any]]:
    """The events of a streamed one."""
    asked = body(temperature=0.5, seed=seed, max_tokens=200, stream=True)
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=60) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_failed_step_is_answered_and_the_third_ends_the_process(server: ServerProcess) -> None:
    url = server.ready()
    before = ask(url)
    answer = fail(url, BROKEN)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == MESSAGE
    assert answer.json()["error"]["type"] == "server_error"
    assert all_slots_free(url)
    assert ask(url) == before
    *_, last = stream(url, BROKEN)
    assert last["error"]["message"] == MESSAGE
    assert httpx.get(f"{url}/health", timeout=60).status_code == 200
    assert ask(url) == before
    assert server.process.poll() is None
    *_, last = stream(url, BROKEN)
    assert "error" in last
    assert server.exit_code() == 3
    assert server.log.splitlines()[-1] == "dflash-serve: error: 3 steps failed within 60 seconds"
    assert server.log.count("Traceback") == 3
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_memory_that_runs_out_twice_ends_the_process_and_all_are_told(
    server: ServerProcess,
) -> None:
    """Also who asks while it ends: with a clean error, or by a closed port."""
    url = server.ready()
    assert fail(url, NO_MEMORY).status_code == 500
    assert fail(url, NO_MEMORY).status_code == 500
    wait(lambda: not served(url), 60)
    assert server.exit_code() == 3
    assert "out of memory for the second time" in server.log.splitlines()[-1]


def served(url: str) -> bool:
    try:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body(), timeout=60)
    except httpx.TransportError:
        return False
    assert answer.status_code in (200, 500, 503)
    if answer.status_code == 200:
        return True
    assert answer.json()["error"]["message"].endswith(".")
    return False
