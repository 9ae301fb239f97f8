"""Table and plot of `dflash-bench start`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result

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
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for position, key in enumerate(_PHASES):
        repeats = result.measured[key]["repeats"]
        axes.plot([position] * len(repeats), repeats, "o")
    axes.set_xticks(range(len(_PHASES)), list(_PHASES.values()))
    axes.set(title="Starting dflash-serve", ylabel="seconds", ylim=(0, None))
    return figure
