"""Tables and plot of `dflash-bench serve`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result

_COLUMNS = (
    "",
    "tok/s, all",
    "tok/s, each",
    "first token ms, p50",
    "p90",
    "latency ms, p50",
    "p90",
    "tokens/round",
    "requests",
    "errors",
)


def tables(result: Result) -> list[Table]:
    rows = []
    for load in result.measured["loads"]:
        first, latency = load["time_to_first_token"], load["latency"]
        rows.append(
            (
                f"{load['clients']} clients, {load['endpoint']}",
                load["total_tokens_per_second"],
                load["request_tokens_per_second"],
                1e3 * first["p50"],
                1e3 * first["p90"],
                1e3 * latency["p50"],
                1e3 * latency["p90"],
                load["spec_accept_length"],
                load["requests"],
                load["errors"],
            )
        )
    made = [table("Load", _COLUMNS, rows)]
    ratios = [
        (
            f"{entry['clients']} clients: {entry['of']} over {entry['over']}",
            f"{entry['ratio']:.2f}x" if entry["ratio"] else None,
            " ".join(f"{value:.2f}" for value in entry["per_repeat"] if value),
        )
        for entry in result.measured["ratios"]
    ]
    if ratios:
        made.append(table("Total tokens per second", ("", "ratio", "repeats"), ratios))
    return made


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
