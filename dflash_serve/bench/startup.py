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
from dflash_serve.bench.pair import target_directory
from dflash_serve.bench.report import canvas, table
from dflash_serve.bench.spawn import spawned
from dflash_serve.measure.endpoint import first_model
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
    directory = target_directory(target)
    with spawned("dflash", target, drafter, directory) as server:
        asked = time.perf_counter()
        endpoint = Endpoint("dflash", server.base_url, first_model(server.base_url))
        connected = time.perf_counter() - asked
        run = run_load(endpoint, [_CHAT], 1, _TOKENS)
        if not run.good:
            raise BenchError(f"the first request failed: {run.samples[0].error}")
        return server.start_seconds, connected + run.good[0].first


_PHASES = {
    "help_seconds": "--help",
    "ready_seconds": "healthy",
    "first_token_seconds": "first token",
}


def tables(result: Result) -> list[Table]:
    rows = [
        (name, result.measured[key]["median"], max(result.measured[key]["repeats"]))
        for key, name in _PHASES.items()
    ]
    return [table("Seconds from the start of the process", ("until", "median", "worst"), rows)]


def plot(result: Result) -> Figure:
    """Every repeat of every phase."""
    figure, axes = canvas(6, 4)
    for position, key in enumerate(_PHASES):
        repeats = result.measured[key]["repeats"]
        axes.plot([position] * len(repeats), repeats, "o")
    axes.set_xticks(range(len(_PHASES)), list(_PHASES.values()))
    axes.set(title="Starting dflash-serve", ylabel="seconds", ylim=(0, None))
    return figure
