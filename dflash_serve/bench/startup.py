"""``dflash-bench start``: how long a user waits for ``--help`` and for the first token.

Measured from the start of a process, caches of the operating system warm.
"""

import subprocess
import sys
import time

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.load import Endpoint, run_load
from dflash_serve.bench.options import StartOptions
from dflash_serve.bench.report import Column, lines, picture, table_of
from dflash_serve.bench.spawn import spawned
from dflash_serve.measure.figures import middle
from dflash_serve.measure.results import Result
from dflash_serve.measure.shapes import Chat

_CHAT = Chat("about", ({"role": "user", "content": "What can you do?"},))
_TOKENS = 32


def run(options: StartOptions) -> Result:
    """Start the server some times and send each one request as soon as it is healthy."""
    turns = range(options.repeats)
    _help()
    _first_token(options.target, options.drafter)
    helps = [_help() for _ in turns]
    firsts = [_first_token(options.target, options.drafter) for _ in turns]
    ready = [start for start, _ in firsts]
    total = [start + wait for start, wait in firsts]
    measured = {
        "help_seconds": {"median": middle(helps), "repeats": helps},
        "ready_seconds": {"median": middle(ready), "repeats": ready},
        "first_token_seconds": {"median": middle(total), "repeats": total},
    }
    return Result("start", options.recorded(), measured)


def _help() -> float:
    started = time.perf_counter()
    command = [sys.executable, "-P", "-m", "dflash_serve.server.cli", "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _first_token(target: str | None, drafter: str) -> tuple[float, float]:
    """Seconds from the process's start to health, and from there to the first token."""
    with spawned("dflash", target, drafter) as server:
        asked = time.perf_counter()
        endpoint = Endpoint("dflash", server.base_url, server.model)
        connected = time.perf_counter() - asked
        run = run_load(endpoint, [_CHAT], 1, _TOKENS)
        if not run.good:
            raise BenchError(f"the first request failed: {run.samples[0].error}")
        return server.start_seconds, connected + run.good[0].first


def tables(result: Result) -> list[Table]:
    phases = [{"until": name} | found for name, found in result.measured.items()]
    worst: Column = ("worst", lambda phase: max(phase["repeats"]))
    return [table_of("Seconds from the start of the process", phases, ["until", "median", worst])]


def plot(result: Result) -> Figure:
    """Every repeat of every phase."""
    starts = [
        {"until": name, "seconds": seconds}
        for name, found in result.measured.items()
        for seconds in found["repeats"]
    ]
    title = "seconds from the start of the process"
    return picture(lines(title, starts, "until", "seconds", "until", style="points"))
