"""Tables and plot of `dflash-bench training-step`."""

from statistics import median

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result

_COLUMNS = ("shape", "tokens", "compiled s", "plain s", "times faster", "MB", "plain MB")


def tables(result: Result) -> list[Table]:
    rows = []
    for name, found in result.measured.items():
        seconds = found.get("seconds_per_step", {})
        peaks = found["peak_bytes"]
        rows.append(
            (
                name,
                found["tokens_per_step"],
                *(median(seconds[kind]) if kind in seconds else None for kind in _KINDS),
                found.get("times_faster"),
                *(peaks[kind] / 1e6 if kind in peaks else None for kind in _KINDS),
            )
        )
    return [table("one training step, and the most memory that it took", _COLUMNS, rows)]


_KINDS = ("compiled", "plain")


def plot(result: Result) -> Figure:
    """Time per token and peak memory, the plain step's as 1."""
    compared = {name: found for name, found in result.measured.items() if "times_faster" in found}
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, title, values in (
        (axes[0], "time per token", [1 / f["times_faster"] for f in compared.values()]),
        (axes[1], "peak memory", [f["peak_share"] for f in compared.values()]),
    ):
        axis.bar(list(compared), values, color="tab:blue")
        axis.axhline(1.0, color="black", linewidth=1)
        axis.set_title(f"{title}, plain step = 1")
    return figure
