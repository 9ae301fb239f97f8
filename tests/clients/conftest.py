"""One server over the forced pair for all suites, and what they ask of it.

Runs in an environment that has the clients and not this project: the server is a process of the
project's own environment. ``DFLASH_CLIENTS_URL`` names a server that runs already.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
NODE = Path(__file__).parent / "node"
MODEL = "forced"
_START = 60.0


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's base URL, without ``/v1``."""
    running = os.environ.get("DFLASH_CLIENTS_URL")
    if running:
        yield running
        return
    python = os.environ.get("DFLASH_PYTHON", str(ROOT / ".venv/bin/python"))
    directory = tmp_path_factory.mktemp("forced")
    log = directory / "log"
    with log.open("wb") as out:
        command = [python, "-m", "tests.clients.server", str(directory)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    try:
        address = _address(process, log)
        yield address
        with httpx.Client(base_url=address) as client:
            eventually(lambda: all_slots_free(client))
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.kill()


@pytest.fixture(scope="session")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def node(url: str) -> Callable[[str], dict[str, Any]]:
    """Run a script of ``node/``: the name of each of its checks -> None, or what went wrong."""

    def run(script: str) -> dict[str, Any]:
        environment = os.environ | {"BASE_URL": url, "MODEL": MODEL, "OPENAI_API_KEY": "-"}
        command = ["node", "--no-warnings", str(NODE / script)]
        done = subprocess.run(
            command,
            cwd=NODE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert lines, done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
        return {check["name"]: check["error"] for check in map(json.loads, lines)}

    return run


def all_slots_free(http: httpx.Client) -> bool:
    health = http.get("/health").json()
    idle = health["running"] == health["waiting"] == 0
    return bool(idle and health["free_slots"] == health["slots"])


def eventually(condition: Callable[[], object], timeout: float = 30.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    end = time.monotonic() + _START
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"on (http://\S+)/v1$", log.read_text(), re.MULTILINE)
        if found:
            return found[1]
        time.sleep(0.05)
    pytest.exit(f"the server did not start:\n{log.read_text()}", returncode=3)
