"""Random checkpoints of true shapes on disk, and whether the server loads and serves them.

    python tools/shapes.py write qwen3-8b DIR       a 4-bit target and a bfloat16 drafter
    python tools/shapes.py check [NAME ...] --out docs/results/shapes-DATE.json

``check`` writes each pair, starts dflash-serve on the target alone and on both, asks for a few
tokens, and deletes the files. The tokenizer is the demo pair's: 1,024 tokens of a vocabulary that
is padded to the published size. That is what a server needs beside the weights, and no more.
"""

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import psutil
import typer
from shape_writer import shrunk, write_pair

from dflash_serve.atomic_files import replace_json
from dflash_serve.bench.shape_configs import SHAPES, Shape
from dflash_serve.provenance import origin

_ROOT = Path(__file__).parent.parent
"""Its server is run, whatever is installed."""
_START, _ANSWER, _STOP = 1800.0, 1800.0, 30.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Served:
    """What a server did: times in seconds, ``bytes_read`` until it was ready."""

    log: list[str]
    ready_seconds: float
    bytes_read: int
    peak_bytes: int
    tokens: int
    answer_seconds: float


def serve(options: list[str], tokens: int, log_path: Path) -> Served:
    """Start dflash-serve, ask for ``tokens`` tokens when it is healthy, and stop it."""
    with _server(options, log_path) as (process, url):
        started = time.perf_counter()
        _wait(process, url, log_path)
        ready = time.perf_counter() - started
        bytes_read = process.io_counters().read_chars
        started = time.perf_counter()
        body = {"model": "shape", "prompt": "a", "max_tokens": tokens, "temperature": 0}
        body["ignore_eos"] = True
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=_ANSWER)
        if not answer.is_success:
            raise SystemExit(f"the completion failed: {answer.text}")
        seconds = time.perf_counter() - started
        counted = answer.json()["usage"]["completion_tokens"]
        text = log_path.read_text().replace(f"{log_path.parent}/", "")
        loaded = [line for line in text.splitlines() if "loaded:" in line]
        return Served(loaded, ready, bytes_read, _peak(process.pid), counted, seconds)


@contextmanager
def _server(options: list[str], log_path: Path) -> Iterator[tuple[psutil.Popen, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dflash_serve.server.cli", "--port", str(port)]
    command += ["--served-model-name", "shape", *options]
    with log_path.open("w") as log:
        process = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=_ROOT)
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            if process.is_running():
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: psutil.Popen, url: str, log_path: Path) -> None:
    end = time.perf_counter() + _START
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}: {log_path.read_text()}")
        try:
            if httpx.get(f"{url}/health", timeout=30.0).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"the server was not healthy after {_START:.0f} s")


def _peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def result(served: Served, disk: int, options: list[str]) -> dict[str, Any]:
    """The JSON of one run."""
    figures = [re.search(r"GB in (\S+) s .* (\S+) GB in memory", line) for line in served.log]
    loads = [(float(found[1]), float(found[2]) * 1e9) for found in figures if found is not None]
    held = sum(size for _, size in loads)
    return {
        "options": options,
        "bytes_on_disk": disk,
        "log": [line.partition(" INFO ")[2] for line in served.log],
        "load_seconds": sum(seconds for seconds, _ in loads),
        "ready_seconds": round(served.ready_seconds, 2),
        "bytes_read_over_disk": round(served.bytes_read / disk, 4),
        "peak_resident_bytes": served.peak_bytes,
        "peak_over_disk": round(served.peak_bytes / disk, 4),
        "peak_over_loaded": round(served.peak_bytes / held, 4) if held else None,
        "tokens": served.tokens,
        "answer_seconds": round(served.answer_seconds, 2),
    }


def check_pair(
    directory: Path, shape: Shape, tokens: int, options: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write a pair if it is not there, and serve its target alone, then both."""
    if not (directory / "drafter").exists():
        write_pair(directory, shape)
    alone = ["--target", str(directory / "target"), "--max-context", "512", "--max-batch", "1"]
    disk = 0
    for role, more in (
        ("target", ["--drafter", "none"]),
        ("drafter", ["--drafter", str(directory / "drafter"), *options]),
    ):
        disk += sum(path.stat().st_size for path in (directory / role).glob("*.safetensors"))
        served = serve([*alone, *more], tokens, directory / "server.log")
        yield f"with {role}", result(served, disk, more[2:])


@app.command()
def write(name: str, directory: Path, tiny: bool = False) -> None:
    """Write one pair."""
    target, drafter = write_pair(directory, shrunk(SHAPES[name]) if tiny else SHAPES[name])
    print(f"{directory}: target {target / 1e9:.2f} GB, drafter {drafter / 1e9:.2f} GB")


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Of the table; none: all.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON file; what it holds of others is kept.")
    ] = None,
    scratch: Annotated[
        Path | None, typer.Option(help="Pairs that are here are used, and stay.")
    ] = None,
    tokens: int = 3,
    option: Annotated[list[str] | None, typer.Option(help="For the server with a drafter.")] = None,
    tiny: bool = False,
) -> None:
    """Write, serve and delete pairs, one at a time."""
    results = json.loads(out.read_text())["results"] if out is not None and out.exists() else {}
    for name in names or list(SHAPES):
        shape = shrunk(SHAPES[name]) if tiny else SHAPES[name]
        with tempfile.TemporaryDirectory(prefix="shapes-") as temporary:
            place = (scratch or Path(temporary)) / name
            for run, measured in check_pair(place, shape, tokens, option or []):
                print(name, run, json.dumps(measured), flush=True)
                results.setdefault(name, {})[run] = measured
                if out is not None:
                    replace_json(out, {"name": "shapes", **origin(), "results": results})


if __name__ == "__main__":
    app()
