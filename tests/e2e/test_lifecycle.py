"""Starting, failing to start, draining: exit codes, single lines, streams that end."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dflash_serve.compose.cards import block_size
from dflash_serve.compose.cost_file import cost_file
from dflash_serve.compose.options import EngineOptions
from tests.e2e.conftest import Start
from tests.e2e.server import (
    PairPaths,
    ServerProcess,
    all_slots_free,
    ask,
    body,
    run_each,
    slow,
    wait,
)
from tests.tiny import write_drafter


def events(answer: httpx.Response) -> Iterator[str]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def test_a_signal_ends_streams_without_a_drain(endless_pair: PairPaths, start: Start) -> None:
    """A running stream is told that it will not be finished; exit code 0."""
    server = start(*endless_pair.options(), "--port", "0", "--drain-timeout", "0")
    url = server.ready()
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=slow(n=8), timeout=120) as answer:
        stream = events(answer)
        seen = [next(stream), next(stream)]
        server.process.send_signal(signal.SIGTERM)
        seen += stream
    assert seen.pop() == "[DONE]"
    assert json.loads(seen[-1])["error"]["code"] == "engine_unavailable"
    assert server.exit_code() == 0, server.log
    assert "Traceback" not in server.log
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_while_it_drains_the_server_says_so(endless_pair: PairPaths, start: Start) -> None:
    """New connections are taken and told, until the last stream has ended. Then the exit, with 0.

    So are those that had asked nothing before the signal.

    By the signal of Ctrl-C; the other one drains in the tests below.
    """
    server = start(*endless_pair.options(), "--port", "0", "--drain-timeout", "120")
    url = server.ready()
    chat = f"{url}/v1/chat/completions"
    asked = slow(n=8, logprobs=True, top_logprobs=20)  # seconds, also for a quick machine
    with httpx.stream("POST", chat, json=asked, timeout=120) as answer:
        stream = events(answer)
        next(stream)
        host = httpx.URL(url)
        with socket.create_connection((host.host, host.port), timeout=60) as early:
            assert httpx.get(f"{url}/health", timeout=60).status_code == 200
            server.process.send_signal(signal.SIGINT)
            wait(lambda: httpx.get(f"{url}/health", timeout=60).status_code == 503, 60)
            early.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert early.recv(64).startswith(b"HTTP/1.1 503 ")
        assert httpx.get(f"{url}/health", timeout=60).json()["status"] == "draining"
        assert httpx.head(f"{url}/health", timeout=60).status_code == 503
        for refused in (
            httpx.post(chat, json=body(), timeout=60),
            httpx.get(f"{url}/v1/models", timeout=60),
        ):
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "engine_unavailable"
            assert int(refused.headers["retry-after"]) > 0
        *_, last, end = stream
    assert end == "[DONE]"
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"
    assert server.exit_code() == 0, server.log
    assert "Traceback" not in server.log
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


@contextlib.contextmanager
def deaf_clients(url: str, count: int) -> Iterator[None]:
    """Clients that ask for long streams and read nothing beyond the first bytes."""
    host = httpx.URL(url)
    content = json.dumps(slow(logprobs=True, top_logprobs=20)).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            wire = stack.enter_context(socket.socket())
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.settimeout(60)
            wire.connect((host.host, host.port))
            wire.sendall(head.encode() + content)
            assert wire.recv(1)
        yield


def test_clients_that_do_not_read_hold_up_no_exit(endless_pair: PairPaths, start: Start) -> None:
    server = start(*endless_pair.options(), "--port", "0", "--drain-timeout", "1")
    url = server.ready()
    with deaf_clients(url, 1):
        wait(lambda: all_slots_free(url), 60)  # nothing is left to do but to send
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0, server.log
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log


def test_a_second_signal_ends_the_process(endless_pair: PairPaths, start: Start) -> None:
    server = start(*endless_pair.options(), "--port", "0", "--drain-timeout", "600")
    url = server.ready()
    with deaf_clients(url, 1):
        server.process.send_signal(signal.SIGTERM)
        wait(lambda: not _is_well(url), 60)
        server.process.send_signal(signal.SIGINT)
        assert server.exit_code() == 128 + signal.SIGINT, server.log
    assert "Traceback" not in server.log


def test_a_killed_client_frees_its_slot(url: str) -> None:
    code = (
        "import json, sys, httpx\n"
        "asked = json.loads(sys.argv[2])\n"
        "with httpx.stream('POST', sys.argv[1], json=asked, timeout=60) as answer:\n"
        "    for line in answer.iter_lines(): print(line, flush=True)\n"
    )
    asked = json.dumps(body(stream=True, max_tokens=450, temperature=1.0, seed=1))
    command = [sys.executable, "-c", code, f"{url}/v1/chat/completions", asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline()
        client.kill()
    wait(lambda: all_slots_free(url), 60)
    assert ask(url)


def _copied(source: Path, to: Path, change: Callable[[Path], object]) -> Path:
    shutil.copytree(source, to)
    change(to)
    return to


def _truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-512])


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def failing_starts(pair: PairPaths, to: Path, url: str) -> dict[str, tuple[list[str], list[str]]]:
    """Options that cannot work, and what the one line must name."""
    target, drafter = str(pair.target), str(pair.drafter)
    short_target = _copied(pair.target, to / "short-target", _truncate)
    short_drafter = _copied(pair.drafter, to / "short-drafter", _truncate)
    wordless = _copied(pair.target, to / "no-words", lambda d: (d / "tokenizer.json").unlink())
    shapeless = _copied(pair.target, to / "shapeless", _edit(max_position_embeddings="many"))
    other = write_drafter(to / "other", vocab_size=96)
    newer = _copied(pair.drafter, to / "newer", _edit(architectures=["DFlash9DraftModel"]))
    port = str(httpx.URL(url).port)
    both = ["--target", target, "--drafter", drafter]
    return {
        "port in use": ([*both, "--port", port], [port, "in use"]),
        "no such host": ([*both, "--host", "not.a.host.invalid"], ["not.a.host.invalid"]),
        "damaged target": (
            ["--target", str(short_target), "--drafter", drafter],
            ["short-target/model.safetensors is damaged", "bytes, the file has"],
        ),
        "damaged drafter": (["--target", target, "--drafter", str(short_drafter)], ["damaged"]),
        "no tokenizer": (["--target", str(wordless), "--drafter", drafter], ["tokenizer"]),
        "odd config": (["--target", str(shapeless), "--drafter", drafter], ["'many'"]),
        "other target's drafter": (
            ["--target", target, "--drafter", str(other)],
            ["vocab_size is 96", "vocab_size is 320"],
        ),
        "newer drafter": (["--target", target, "--drafter", str(newer)], ["DFlash9DraftModel"]),
        "unknown pair": (["--target", target], ["no published drafter", target]),
        "no such directory": (["--target", "./nowhere", "--drafter", drafter], ["./nowhere"]),
        "no such hub id": (["--target", "nobody/nothing", "--drafter", drafter], ["nobody"]),
        "block too large": ([*both, "--block-size", "9"], ["9", "8"]),
        "context too large": ([*both, "--max-context", "513"], ["513", "512"]),
    }


def test_what_cannot_start_is_one_line_and_exit_code_2(
    pair: PairPaths, url: str, tmp_path: Path
) -> None:
    cases = failing_starts(pair, tmp_path, url)
    options = [["--port", "0", *options] for options, _ in cases.values()]
    for (name, (_, named)), log in zip(cases.items(), run_each(options), strict=True):
        line, end = log.splitlines()
        assert line.startswith("dflash-serve: error: "), (name, log)
        assert all(part in line for part in named), (name, line)
        assert end == "exit code 2", (name, log)


@pytest.fixture
def loading(
    pair: PairPaths, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[ServerProcess, str, Path]:
    """A server that listens and loads, its URL, and the pipe that loading waits for.

    It stands where the costs of the pair's rounds are kept.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = EngineOptions(target=str(pair.target), drafter=str(pair.drafter))
    store = cost_file(options, pair.target, pair.drafter, block_size(options, pair.drafter))
    assert store is not None
    store.write([])
    (costs,) = (tmp_path / "cache").rglob("*.json")
    costs.unlink()
    os.mkfifo(costs)
    server = start(*pair.options(), "--port", "0")
    wait(server.port, 120)
    url = f"http://127.0.0.1:{server.port()}"
    wait(lambda: _answers(url), 60)
    return server, url, costs


def test_health_answers_503_while_the_weights_load_and_an_idle_server_leaves_at_once(
    loading: tuple[ServerProcess, str, Path],
) -> None:
    """A connection that a client keeps open and silent is no reason to stay."""
    server, url, costs = loading
    health = httpx.get(f"{url}/health", timeout=60)
    assert health.status_code == 503
    assert health.json()["status"] == "loading"
    refused = httpx.post(f"{url}/v1/chat/completions", json=body(), timeout=60)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_unavailable"
    costs.write_text("{}")
    assert server.ready() == url
    with httpx.Client(base_url=url) as client:
        assert client.get("/health").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0, server.log


def test_a_signal_ends_a_server_that_still_loads(loading: tuple[ServerProcess, str, Path]) -> None:
    server, _, _ = loading
    server.process.send_signal(signal.SIGTERM)
    assert server.exit_code() == 0, server.log
    assert "Traceback" not in server.log


def _is_well(url: str) -> bool:
    """Whether requests are taken; a server that stops says no, and later does not answer."""
    try:
        return httpx.get(f"{url}/health", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def _answers(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", timeout=60)
    except httpx.ConnectError:
        return False
    return True


def test_help_comes_without_mlx() -> None:
    """MLX, transformers and the web server cost seconds to import; help needs none of them."""
    command = [sys.executable, "-X", "importtime", "-m", "dflash_serve.server.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "--speculation" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "dflash_serve.server.settings" in imported
    assert not {"mlx.core", "mlx_lm", "transformers", "fastapi", "uvicorn", "numpy"} & imported
