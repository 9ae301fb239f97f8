"""Tables and plot of `dflash-bench serve`."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table_of, times
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    loads = table_of(
        "Load",
        result.measured["loads"],
        (
            ("", lambda load: f"{load['clients']} clients, {load['endpoint']}"),
            ("tok/s, all", "total_tokens_per_second"),
            ("tok/s, each", "request_tokens_per_second"),
            *(
                (f"{name} ms, p{percent}", _milliseconds(key, percent))
                for name, key in (("first token", "time_to_first_token"), ("latency", "latency"))
                for percent in (50, 90)
            ),
            ("tokens/round", "tokens_per_round"),
            ("pooled", "tokens_per_round_pooled"),
            ("requests", "requests"),
            ("errors", "errors"),
        ),
    )
    if not result.measured["ratios"]:
        return [loads]
    ratios = table_of(
        "Total tokens per second",
        result.measured["ratios"],
        (
            ("", lambda one: f"{one['clients']} clients: {one['of']} over {one['over']}"),
            ("ratio", times("ratio")),
            (
                "repeats",
                lambda one: " ".join(f"{value:.2f}" for value in one["per_repeat"] if value),
            ),
        ),
    )
    return [loads, ratios]


def _milliseconds(key: str, percent: int) -> Callable[[Any], object]:
    return lambda load: 1e3 * load[key][f"p{percent}"]


def plot(result: Result) -> Figure:
    """Total tokens per second and time to first token by number of clients."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    rate, first = figure.subplots(1, 2)
    for endpoint in result.measured["endpoints"]:
        loads = [e for e in result.measured["loads"] if e["endpoint"] == endpoint["name"]]
        x = [load["clients"] for load in loads]
        rate.plot(x, [e["total_tokens_per_second"] for e in loads], "o-", label=endpoint["name"])
        times = [1e3 * load["time_to_first_token"]["p50"] for load in loads]
        first.plot(x, times, "o-", label=endpoint["name"])
    rate.set(title="total tokens/s", xlabel="clients", ylim=(0, None))
    first.set(title="time to first token, ms (median)", xlabel="clients", ylim=(0, None))
    rate.legend()
    return figure
