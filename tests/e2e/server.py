"""A real ``dflash-serve`` process: started, watched through its log, ended."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

START_TIMEOUT = 240.0
MODEL = "tiny"


@dataclass(frozen=True)
class PairPaths:
    """Checkpoints on disk that fit each other; the target has a tokenizer."""

    target: Path
    drafter: Path

    def options(self) -> list[str]:
        names = ["--target", self.target, "--drafter", self.drafter, "--served-model-name", MODEL]
        return [str(name) for name in names]


class ServerProcess:
    """Runs until stopped. ``log`` is what it wrote to stderr; ``module`` is what is run."""

    def __init__(self, log: Path, *options: str, module: str = "dflash_serve.server.cli") -> None:
        self._path = log
        environment = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", module, *options]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, env=os.environ | environment
            )

    @property
    def log(self) -> str:
        return self._path.read_text(errors="replace")

    def ready(self) -> str:
        """The base URL, once requests are taken."""
        wait(lambda: self._address() or self.process.poll() is not None, START_TIMEOUT)
        address = self._address()
        assert address, self.log
        return address

    def exit_code(self, timeout: float = START_TIMEOUT) -> int:
        return self.process.wait(timeout)

    def port(self) -> int | None:
        """Where the process listens, if it does."""
        listening = psutil.Process(self.process.pid).net_connections("tcp4")
        return next((one.laddr.port for one in listening if one.status == "LISTEN"), None)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(60)

    def _address(self) -> str | None:
        found = re.search(r"on (http://\S+)/v1$", self.log, re.MULTILINE)
        return found[1] if found else None


_RUN_EACH = """
import json, sys
from dflash_serve.server.cli import main
for options in json.loads(sys.argv[1]):
    sys.argv[1:] = options
    try:
        main()
    except SystemExit as ended:
        print("exit code", ended.code, file=sys.stderr)
        print("next", file=sys.stderr)
"""


def run_each(options: Sequence[Sequence[str]]) -> list[str]:
    """What each of several servers writes that cannot start, and its exit code at the end.

    One after the other in one process, whose imports take longer than all of them.
    """
    done = subprocess.run(
        [sys.executable, "-c", _RUN_EACH, json.dumps(options)],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    *logs, rest = done.stderr.split("next\n")
    assert (rest, done.stdout) == ("", "")
    return logs


def wait(condition: Callable[[], object], timeout: float) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)


def body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """A greedy chat request."""
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 12,
    }
    return asked | fields


def slow(**fields: Any) -> dict[str, Any]:
    """A streamed request that many rounds are needed for: its drafts are wrong."""
    return body(stream=True, max_tokens=480, temperature=1.5, seed=1) | fields


def ask(url: str, **fields: Any) -> str:
    """The text of one whole answer."""
    answer = httpx.post(f"{url}/v1/chat/completions", json=body(**fields), timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def all_slots_free(url: str) -> bool:
    health = httpx.get(f"{url}/health", timeout=60).json()
    idle = health["running"] == health["waiting"] == 0
    return bool(idle and health["free_slots"] == health["slots"])
