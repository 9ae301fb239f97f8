"""``dflash-bench stalls``: what holds running streams up.

Three parts: request bodies of the maximum size and swaps of the drafter beside streams over real
sockets, and a short prompt behind a long one in the engine. The longest gap that a disturbance
touches is compared with the longest one inside a stretch as long before it.
"""

import http.client
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.clients import (
    Arrivals,
    Body,
    Window,
    bodies,
    longest_gap,
    reading,
    send,
)
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import StallsOptions
from dflash_serve.bench.random_targets import RANDOM_TARGETS, RandomTarget
from dflash_serve.bench.report import bars, picture, table_of
from dflash_serve.bench.spawn import Spawned, spawned
from dflash_serve.compose.directories import checkpoints
from dflash_serve.compose.options import EngineOptions
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest
from dflash_serve.measure.driver import Driver, Step
from dflash_serve.measure.figures import middle
from dflash_serve.measure.results import Result

_ADMIN_KEY = "measured"
_REFUSED, _DONE = (http.client.BAD_REQUEST, http.client.OK)
_SHORT = 10
"""Tokens of the short prompt."""
_SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
"""Of the target that reads the long prompt: how many chunks it takes does not depend on it."""


@dataclass(frozen=True, slots=True)
class _Disturbed:
    """One disturbance, the quiet stretch before it, and the status of the answer."""

    name: str
    quiet: Window
    during: Window
    status: int


def run(options: StallsOptions) -> Result:
    """All parts, one after the other; those on a server beside the same streams."""
    measured: dict[str, Any] = {}
    if options.repeats or options.swaps:
        keys = ("--admin-key", _ADMIN_KEY)
        with spawned("dflash", options.target, options.drafter, keys) as server:
            measured |= _beside_streams(options, server)
    failures = tuple(
        f"{row['name']}: status {found}"
        for name, wanted in (("bodies", _REFUSED), ("swaps", _DONE))
        for row in measured.get(name, ())
        for found in row["statuses"]
        if found != wanted
    )
    if options.prompt:
        measured["short_behind_long"] = _short_behind_long(options)
    return Result("stalls", options.recorded(), measured, failures)


def _beside_streams(options: StallsOptions, server: Spawned) -> dict[str, list[dict[str, Any]]]:
    model = server.model
    with reading(server.port, model, options.streams) as streams:
        streams.begun()
        disturbed = {
            "bodies": _send_bodies(options, server.port, model),
            "swaps": _swap(options, server.port),
        }
        arrivals = streams.ended()
    if not any(arrivals):
        raise BenchError("no stream gave a chunk")
    return {name: _rows(ones, arrivals) for name, ones in disturbed.items() if ones}


def _send_bodies(options: StallsOptions, port: int, model: str) -> list[_Disturbed]:
    """Each body beside the streams, ``repeats`` times, in turns."""
    done = []
    kinds = bodies(model, options.body_bytes)
    lasts = {body.name: options.quiet for body in kinds}
    for _ in range(options.repeats):
        for body in kinds:
            quiet = _wait(lasts[body.name])
            during, status = send(port, body)
            lasts[body.name] = max(options.quiet, during.seconds)
            done.append(_Disturbed(body.name, quiet, during, status))
    return done


def _swap(options: StallsOptions, port: int) -> list[_Disturbed]:
    """The drafter by itself, so that everything but the weights is as before."""
    done: list[_Disturbed] = []
    for _ in range(options.swaps):
        content = json.dumps({"drafter": _drafter(options)}).encode()
        quiet = _wait(max(1.0, options.quiet))
        swap, status = send(port, Body("", "/admin/drafter", content), key=_ADMIN_KEY)
        after = _wait(options.quiet)  # the first rounds with it
        during = Window(swap.begin, after.end)
        done.append(_Disturbed("a swap of the drafter", quiet, during, status))
    return done


def _drafter(options: StallsOptions) -> str:
    _, drafter = checkpoints(EngineOptions(target=options.target, drafter=options.drafter))
    if drafter is None:
        raise BenchError("--drafter none has nothing to swap: give --swaps 0")
    return str(drafter)


def _wait(seconds: float) -> Window:
    begin = time.perf_counter()
    time.sleep(seconds)
    return Window(begin, time.perf_counter())


def _rows(disturbed: Sequence[_Disturbed], arrivals: Arrivals) -> list[dict[str, Any]]:
    """Per name: the longest gaps in milliseconds, and how much the disturbance adds."""
    rows = []
    for name in dict.fromkeys(one.name for one in disturbed):
        ones = [one for one in disturbed if one.name == name]
        quiet = [1e3 * longest_gap(arrivals, one.quiet, inside=True) for one in ones]
        during = [1e3 * longest_gap(arrivals, one.during) for one in ones]
        rows.append(
            {
                "name": name,
                "seconds": middle([one.during.seconds for one in ones]),
                "quiet_ms": max(quiet),
                "during_ms": max(during),
                "added_ms": max(during) - max(quiet),
                "added_ms_median": middle([b - a for a, b in zip(quiet, during, strict=True)]),
                "statuses": [one.status for one in ones],
            }
        )
    return rows


def _short_behind_long(options: StallsOptions) -> dict[str, Any]:
    """Steps until a short prompt that comes in the middle of a long one's has its first token."""
    context = options.prompt + 1024
    shape = RANDOM_TARGETS["qwen3-tiny"].config | _SHAPE | {"max_position_embeddings": context}
    target = RandomTarget(shape).load(options.seed)
    config = EngineConfig(max_batch=8, max_context=context, block_size=1)
    with closing(DeviceRunner(target, None, 1)) as runner:
        taken = _steps_to_short(Driver(runner, config, keep_steps=True), options.prompt)
    return {
        "prompt_tokens": options.prompt,
        "short_prompt_tokens": _SHORT,
        "steps": len(taken),
        "seconds": sum(step.total for step in taken),
        "longest_step_ms": 1e3 * max(step.total for step in taken),
    }


def _steps_to_short(driver: Driver, prompt: int) -> list[Step]:
    """Those from the short prompt's arrival to its first token."""
    driver.add(EngineRequest("long", (3,) * prompt, 4))
    for _ in range(3):
        driver.step()
    driver.add(EngineRequest("short", (5,) * _SHORT, 4))
    before = len(driver.steps)
    while not driver.answers["short"].tokens:
        driver.step()
    return driver.steps[before:]


def tables(result: Result) -> list[Table]:
    made = []
    if rows := _all_rows(result):
        columns = "name seconds quiet_ms during_ms added_ms added_ms_median"
        made.append(table_of("Longest gap between chunks", rows, columns))
    if behind := result.measured.get("short_behind_long"):
        title = "Chunks until the first token of a short prompt behind a long one"
        made.append(table_of(title, [behind], list(behind)))
    return made


def plot(result: Result) -> Figure:
    """The longest gap of quiet streams beside that of disturbed ones."""
    title = "longest gap between chunks"
    return picture(bars(title, _all_rows(result), "name", "quiet_ms during_ms"), width=8)


def _all_rows(result: Result) -> list[dict[str, Any]]:
    return [*result.measured.get("bodies", ()), *result.measured.get("swaps", ())]
