"""Table and plot of `dflash-bench stops`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result


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
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
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
