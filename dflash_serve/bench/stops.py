"""``dflash-bench stops``: fresh servers under load, told to stop at a random moment.

Counts exit codes and measures the seconds from SIGTERM to the end of the process.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from typing import Any

import httpx
import psutil
from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.options import StopsOptions
from dflash_serve.bench.report import lines, picture, table_of
from dflash_serve.bench.spawn import Spawned, spawned
from dflash_serve.measure.figures import middle, percentile
from dflash_serve.measure.results import Result

_SLACK = 30.0
"""Seconds beyond the drain timeout after which a server counts as hanging."""
_WORDS = ("tell", "me", "about", "rivers", "and", "stones", "in", "seven", "plain", "sentences")


def run(options: StopsOptions) -> Result:
    """Start, load and stop a server ``options.stops`` times."""
    stops = [_stop(options, number) for number in range(options.stops)]
    seconds = [stop["seconds"] for stop in stops]
    measured: dict[str, Any] = {
        "exit_codes": dict(Counter(str(stop["exit_code"]) for stop in stops)),
        "seconds": {
            "median": middle(seconds),
            "p95": percentile(seconds, 95),
            "worst": max(seconds),
        },
        "answered": sum(stop["answered"] for stop in stops),
        "stops": stops,
    }
    failures = tuple(
        f"stop {number}: exit code {stop['exit_code']} after {stop['seconds']:.2f} s: "
        f"{stop['last_line']}"
        for number, stop in enumerate(stops)
        if stop["exit_code"] != 0
    )
    return Result("stops", options.recorded(), measured, failures)


def _stop(options: StopsOptions, number: int) -> dict[str, Any]:
    """One server's end. ``after``: seconds of load before the signal; ``seconds``: to its end."""
    rng = random.Random(f"{options.seed} {number}")
    after = rng.uniform(options.shortest, options.longest)
    drain = ("--drain-timeout", str(options.drain_timeout))
    with spawned("dflash", options.target, options.drafter, drain) as server:
        return asyncio.run(_under_load(server, options, rng, after))


async def _under_load(
    server: Spawned, options: StopsOptions, rng: random.Random, after: float
) -> dict[str, Any]:
    model = server.model
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
    return {
        "after": round(after, 3),
        "seconds": round(seconds, 3),
        "exit_code": code,
        "answered": len(answered),
        "last_line": "" if code == 0 else server.last_line(),
    }


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
    text = " ".join(rng.choices(_WORDS, k=rng.choice((1, 8, 40, 200))))
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


def tables(result: Result) -> list[Table]:
    found = result.measured
    codes = [{"exit_code": code, "stops": count} for code, count in found["exit_codes"].items()]
    return [
        table_of("SIGTERM under load", codes, "exit_code stops"),
        table_of("Seconds to exit", [found], "seconds.median seconds.p95 seconds.worst answered"),
    ]


def plot(result: Result) -> Figure:
    """Every stop: seconds to exit over seconds of load."""
    stops = result.measured["stops"]
    title = "seconds to exit, after seconds of load, by exit code"
    return picture(lines(title, stops, "after", "seconds", "exit_code", style="points"))
