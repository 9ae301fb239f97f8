"""``dflash-bench stops``: fresh servers under load, told to stop at a random moment.

Counts exit codes and measures the seconds from SIGTERM to the end of the process.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.options import StopsOptions
from dflash_serve.bench.pair import target_directory
from dflash_serve.bench.report import canvas, table
from dflash_serve.bench.spawn import Spawned, spawned
from dflash_serve.measure.endpoint import first_model
from dflash_serve.measure.figures import middle, percentile
from dflash_serve.measure.results import Result

_SLACK = 30.0
"""Seconds beyond the drain timeout after which a server counts as hanging."""
_WORDS = ("tell", "me", "about", "rivers", "and", "stones", "in", "seven", "plain", "sentences")


@dataclass(frozen=True, slots=True)
class Stop:
    """One server's end. ``after``: seconds of load before the signal; ``seconds``: to its end."""

    after: float
    seconds: float
    exit_code: int | None
    answered: int
    last_line: str


def run(options: StopsOptions) -> Result:
    """Start, load and stop a server ``options.stops`` times."""
    stops = [_stop(options, number) for number in range(options.stops)]
    codes = Counter(str(stop.exit_code) for stop in stops)
    seconds = [stop.seconds for stop in stops]
    measured: dict[str, Any] = {
        "exit_codes": dict(codes),
        "seconds": {
            "median": middle(seconds),
            "p95": percentile(seconds, 95),
            "worst": max(seconds),
        },
        "answered": sum(stop.answered for stop in stops),
        "stops": [_row(stop) for stop in stops],
    }
    failures = tuple(
        f"stop {number}: exit code {stop.exit_code} after {stop.seconds:.2f} s: {stop.last_line}"
        for number, stop in enumerate(stops)
        if stop.exit_code != 0
    )
    return Result("stops", options.recorded(), measured, failures)


def _row(stop: Stop) -> dict[str, Any]:
    return {
        "after": round(stop.after, 3),
        "seconds": round(stop.seconds, 3),
        "exit_code": stop.exit_code,
        "answered": stop.answered,
        "last_line": stop.last_line if stop.exit_code else "",
    }


def _stop(options: StopsOptions, number: int) -> Stop:
    rng = random.Random(f"{options.seed} {number}")
    after = rng.uniform(options.shortest, options.longest)
    directory = target_directory(options.target)
    drain = ("--drain-timeout", str(options.drain_timeout))
    with spawned("dflash", options.target, options.drafter, directory, drain) as server:
        return asyncio.run(_under_load(server, options, rng, after))


async def _under_load(
    server: Spawned, options: StopsOptions, rng: random.Random, after: float
) -> Stop:
    model = first_model(server.base_url)
    answered: list[None] = []
    async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as client:
        seeds = [rng.random() for _ in range(options.clients)]
        clients = [
            asyncio.create_task(_client(client, model, random.Random(seed), answered))
            for seed in seeds
        ]
        await asyncio.sleep(after)
        server.process.send_signal(signal.SIGTERM)
        started = time.perf_counter()
        code = await asyncio.to_thread(_exit_code, server, options.drain_timeout + _SLACK)
        seconds = time.perf_counter() - started
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return Stop(after, seconds, code, len(answered), server.last_line())


def _exit_code(server: Spawned, timeout: float) -> int | None:
    """None of a server that hangs."""
    with contextlib.suppress(psutil.TimeoutExpired):
        return int(server.process.wait(timeout))
    return None


async def _client(
    client: httpx.AsyncClient, model: str, rng: random.Random, answered: list[None]
) -> None:
    """Send requests until the server is gone; some are abandoned in the middle."""
    while True:
        body = _body(model, rng)
        leave_after = rng.choice((None, None, None, 2))
        try:
            async with client.stream("POST", "/chat/completions", json=body) as answer:
                await _read(answer, leave_after)
                answered += [None] if answer.is_success else []
        except httpx.ConnectError:
            return
        except httpx.HTTPError:
            continue


async def _read(answer: httpx.Response, leave_after: int | None) -> None:
    parts = 0
    async for _ in answer.aiter_raw():
        parts += 1
        if parts == leave_after:
            return


def _body(model: str, rng: random.Random) -> dict[str, Any]:
    text = " ".join(_pick(rng))
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": rng.choice((1, 7, 40, 300)),
        "temperature": rng.choice((0, 0, 0.8)),
        "top_p": rng.choice((1.0, 0.9)),
        "seed": rng.randrange(1000),
        "n": rng.choice((1, 1, 1, 3)),
        "stream": rng.random() < 0.6,
    }


def _pick(rng: random.Random) -> Sequence[str]:
    return rng.choices(_WORDS, k=rng.choice((1, 8, 40, 200)))


def tables(result: Result) -> list[Table]:
    codes = result.measured["exit_codes"]
    seconds = result.measured["seconds"]
    rows: list[tuple[object, ...]] = [
        (f"exit code {code}", count) for code, count in sorted(codes.items())
    ]
    rows += [(f"seconds to exit, {name}", value) for name, value in seconds.items()]
    rows.append(("requests answered before", result.measured["answered"]))
    return [table("SIGTERM under load", ("", ""), rows)]


def plot(result: Result) -> Figure:
    """Every stop: seconds to exit over seconds of load."""
    figure, axes = canvas(6, 4)
    for good in (True, False):
        stops = [s for s in result.measured["stops"] if (s["exit_code"] == 0) is good]
        label = "exit code 0" if good else "other exit code"
        after, seconds = [s["after"] for s in stops], [s["seconds"] for s in stops]
        axes.plot(after, seconds, "o" if good else "x", label=label)
    axes.set(
        title="Stopping dflash-serve under load",
        xlabel="seconds of load before SIGTERM",
        ylabel="seconds to exit",
        ylim=(0, None),
    )
    axes.legend()
    return figure
