"""Processes of a measurement: servers, our own and mlx-lm's as rival, and jobs with one result."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import httpx
import psutil

from dflash_serve.bench.errors import BenchError
from dflash_serve.compose.directories import target_directory
from dflash_serve.kernels import cpu_blas
from dflash_serve.measure.endpoint import first_model

_START, _STOP, _POLL, _JOB = 180.0, 20.0, 0.1, 900.0


@dataclass(frozen=True, slots=True)
class Spawned:
    """A running server. ``start_seconds``: from the process's start until it was healthy."""

    kind: str
    port: int
    process: psutil.Popen
    start_seconds: float
    log: IO[str]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def model(self) -> str:
        """As requests name it: mlx-lm's server lists the hub cache, and calls its own so."""
        return first_model(self.base_url) if self.kind.startswith("dflash") else "default_model"

    def memory_bytes(self) -> int:
        """Resident memory now."""
        return int(self.process.memory_info().rss)

    def idle_cpu_percent(self) -> float:
        """Processor use over half a second without requests."""
        return float(self.process.cpu_percent(interval=0.5))

    def last_line(self) -> str:
        """Of what it wrote."""
        return _last_line(self.log)


@contextlib.contextmanager
def spawned(
    kind: str, target: str | None, drafter: str, options: Sequence[str] = ()
) -> Iterator[Spawned]:
    """Start a server of ``kind`` on a free port and stop it at the end.

    dflash-plain: without speculation. mlx-lm: as installed; -blas: over this package's matmul.
    ``options`` are added to our own server's command line.

    Raises:
        AdapterError: there is no such target.
        BenchError: it did not come up; the last line of its log says why.
    """
    port = _free_port()
    command = [sys.executable, "-P", "-m", *_arguments(kind, target, drafter, options)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        started = time.perf_counter()
        process = psutil.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_variables(kind)
        )
        try:
            _wait(kind, process, port, log)
            seconds = time.perf_counter() - started
            yield Spawned(kind, port, process, seconds, log)
        finally:
            _stop(process)


def _arguments(kind: str, target: str | None, drafter: str, options: Sequence[str]) -> list[str]:
    directory = target_directory(target)
    if kind.startswith("mlx-lm"):
        return ["mlx_lm", "server", "--model", str(directory), "--log-level", "WARNING"]
    arguments = ["dflash_serve.server.cli", "--log-level", "warning", "--drafter", drafter]
    if target is not None:
        arguments += ["--target", target]
    if kind == "dflash-plain":
        arguments += ["--speculation", "off"]
    return [*arguments, *options]


def _variables(kind: str) -> dict[str, str]:
    if kind.startswith("mlx-lm"):
        return environment("float32-blas" if kind == "mlx-lm-blas" else "as-installed")
    return dict(os.environ)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(kind: str, process: psutil.Popen, port: int, log: IO[str]) -> None:
    deadline = time.perf_counter() + _START
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise BenchError(f"{kind} ended with {process.returncode}: {_last_line(log)}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5.0).is_success:
                return
        time.sleep(_POLL)
    raise BenchError(f"{kind} was not healthy after {_START:.0f} s: {_last_line(log)}")


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    return next((line for line in reversed(log.read().splitlines()) if line.strip()), "no log")


def _stop(process: psutil.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()


def environment(variant: str) -> dict[str, str]:
    """Of a process with the stock matmul, or for float32-blas with this package's."""
    changed = dict(os.environ) | {"DFLASH_CPU_BLAS": "off", "HF_HUB_OFFLINE": "1"}
    if variant == "float32-blas":
        library = cpu_blas.status().path
        if library is None:
            raise BenchError("float32-blas needs this package's matmul, which is not loaded here")
        changed["LD_PRELOAD"] = str(library)
    return changed


def run_job(name: str, command: Sequence[str], job: Any, variables: Mapping[str, str]) -> Any:
    """The JSON in the last line that a process writes, which gets ``job`` as JSON.

    Raises:
        BenchError: it failed, took too long or wrote none; ``name`` says what it is.
    """
    try:
        done = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            env=variables,
            timeout=_JOB,
            check=True,
        )
        return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or "").strip().splitlines()[-1:] or ["no message"]
        raise BenchError(f"{name} failed: {reason[0]}") from error
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError) as error:
        raise BenchError(f"{name} gave no result: {error}") from error
