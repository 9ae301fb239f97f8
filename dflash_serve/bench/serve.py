"""``dflash-bench serve``: HTTP load at several numbers of clients, on one server or on rivals.

Rivals take turns, the order reversed each repeat, with the same prompts in the same order.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.load import Endpoint, LoadRun, Sample, run_load
from dflash_serve.bench.options import ServeOptions
from dflash_serve.bench.report import Columns, lines, picture, table_of, times
from dflash_serve.bench.spawn import Spawned, spawned
from dflash_serve.bench.workloads import chats_of, pick
from dflash_serve.measure.endpoint import first_model
from dflash_serve.measure.figures import Acceptance, RoundCount, middle, percentile, ratio
from dflash_serve.measure.results import Result
from dflash_serve.measure.shapes import Chat


def run(options: ServeOptions) -> Result:
    """Start what is to be started, load it, stop it."""
    chats = chats_of(options.prompt_file)
    with contextlib.ExitStack() as stack:
        servers = _start(options, stack)
        endpoints = _endpoints(options, servers)
        idle = {server.kind: server.idle_cpu_percent() for server in servers}
        runs = _measure(options, endpoints, chats)
        processes = {
            server.kind: {
                "start_seconds": server.start_seconds,
                "memory_bytes": server.memory_bytes(),
                "idle_cpu_percent": idle[server.kind],
            }
            for server in servers
        }
    return _result(options, endpoints, runs, processes)


def _start(options: ServeOptions, stack: contextlib.ExitStack) -> list[Spawned]:
    pair = options.target, options.drafter
    return [
        stack.enter_context(spawned(kind, *pair, options.server_options)) for kind in options.spawn
    ]


def _endpoints(options: ServeOptions, servers: Sequence[Spawned]) -> list[Endpoint]:
    if options.base_url:
        url = options.base_url.rstrip("/")
        key = options.api_key or os.environ.get("DFLASH_BENCH_API_KEY")
        return [Endpoint(url, url, options.model or first_model(url, key), key, options.meta_info)]
    return [
        Endpoint(one.kind, one.base_url, one.model, meta_info=one.kind.startswith("dflash"))
        for one in servers
    ]


Runs = dict[tuple[str, int], list[LoadRun]]
"""Per endpoint's name and number of clients: one run per repeat."""


def _measure(options: ServeOptions, endpoints: Sequence[Endpoint], chats: Sequence[Chat]) -> Runs:
    runs: Runs = {(e.name, clients): [] for e in endpoints for clients in options.clients}
    for endpoint in endpoints:
        for clients in options.clients:
            warm = _cycle(chats, options.warmup * clients, options.seed)
            if warm:
                run_load(endpoint, warm, clients, options.max_tokens)
    for repeat in range(options.repeats):
        prompts = _cycle(chats, options.requests, options.seed + 1 + repeat)
        for clients in options.clients:
            for endpoint in endpoints[:: -1 if repeat % 2 else 1]:
                run = run_load(endpoint, prompts, clients, options.max_tokens)
                runs[endpoint.name, clients].append(run)
    return runs


def _cycle(chats: Sequence[Chat], count: int, seed: int) -> list[Chat]:
    """``count`` prompts; when there are fewer, they come again."""
    picked = pick(chats, count, seed)
    return [picked[number % len(picked)] for number in range(count)]


def _result(
    options: ServeOptions,
    endpoints: Sequence[Endpoint],
    runs: Runs,
    processes: Mapping[str, Any],
) -> Result:
    loads: list[dict[str, Any]] = [
        {"endpoint": endpoint.name, "clients": clients} | figures(runs[endpoint.name, clients])
        for clients in options.clients
        for endpoint in endpoints
    ]
    errors = sum(load["errors"] for load in loads)
    measured = {
        "endpoints": [{"name": e.name, "model": e.model} for e in endpoints],
        "processes": processes,
        "loads": loads,
        "ratios": _ratios(options, endpoints, runs),
    }
    failures = (f"{errors} requests failed",) if errors else ()
    return Result("serve", options.recorded(), measured, failures)


def figures(runs: Sequence[LoadRun]) -> dict[str, Any]:
    """Rates are medians over repeats, times are percentiles over all requests, in seconds."""
    samples = [sample for run in runs for sample in run.good]
    failed = [sample.error for run in runs for sample in run.samples if sample.error is not None]
    counts = [
        RoundCount(s.accept_length * s.verify_passes, s.verify_passes)
        for s in samples
        if s.accept_length is not None and s.verify_passes is not None
    ]
    found = Acceptance.of(counts)
    return {
        "total_tokens_per_second": middle([run.total_rate for run in runs]),
        "total_tokens_per_second_repeats": [run.total_rate for run in runs],
        "request_tokens_per_second": middle([sample.rate for sample in samples]),
        "time_to_first_token": _percentiles([sample.first for sample in samples]),
        "latency": _percentiles([sample.total for sample in samples]),
        "requests": len(samples),
        "completion_tokens": sum(sample.tokens for sample in samples),
        "tokens_counted_by": _sources(samples),
        "tokens_per_round": found.tokens_per_round if counts else None,
        "tokens_per_round_pooled": found.tokens_per_round_pooled if counts else None,
        "verify_passes": int(found.rounds) if counts else None,
        "errors": len(failed),
        "first_error": failed[0] if failed else None,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{percent}": percentile(values, percent) for percent in (50, 90, 99)}


def _sources(samples: Sequence[Sample]) -> str | None:
    return " and ".join(sorted({sample.counted for sample in samples})) or None


def _ratios(
    options: ServeOptions, endpoints: Sequence[Endpoint], runs: Runs
) -> list[dict[str, Any]]:
    """Total tokens per second of the first endpoint over each other one."""
    first, *others = endpoints
    made = []
    for clients in options.clients:
        own = [run.total_rate for run in runs[first.name, clients]]
        for other in others:
            theirs = [run.total_rate for run in runs[other.name, clients]]
            made.append(
                {
                    "clients": clients,
                    "of": first.name,
                    "over": other.name,
                    "ratio": ratio(middle(own), middle(theirs)),
                    "per_repeat": [ratio(a, b) for a, b in zip(own, theirs, strict=True)],
                }
            )
    return made


def tables(result: Result) -> list[Table]:
    times_of = (("first token", "time_to_first_token"), ("latency", "latency"))
    columns: Columns = [
        *("clients", "endpoint"),
        ("tok/s, all", "total_tokens_per_second"),
        ("tok/s, each", "request_tokens_per_second"),
        *(
            (f"{name} ms, p{percent}", _milliseconds(key, percent))
            for name, key in times_of
            for percent in (50, 90)
        ),
        *("tokens_per_round", "tokens_per_round_pooled", "requests", "errors"),
    ]
    ratios: Columns = [
        *("clients", "of", "over"),
        ("ratio", times("ratio")),
        ("repeats", lambda one: " ".join(f"{value:.2f}" for value in one["per_repeat"] if value)),
    ]
    made = [table_of("Load", result.measured["loads"], columns)]
    if result.measured["ratios"]:
        made.append(table_of("Total tokens per second", result.measured["ratios"], ratios))
    return made


def _milliseconds(key: str, percent: int) -> Callable[[Any], float]:
    return lambda load: 1e3 * float(load[key][f"p{percent}"])


def plot(result: Result) -> Figure:
    """Total tokens per second and time to first token by number of clients."""
    loads, first = result.measured["loads"], _milliseconds("time_to_first_token", 50)
    return picture(
        lines("total tokens/s", loads, "clients", "total_tokens_per_second", "endpoint"),
        lines("time to first token, ms (median)", loads, "clients", first, "endpoint"),
    )
