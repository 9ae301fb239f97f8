"""Tables and plot of `dflash-bench sweep`, made from its JSON values alone."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    """Speeds of all arms, and what the engine's choice reaches."""
    cases = result.measured["cases"]
    names = [arm["name"] for arm in cases[0]["arms"]]
    columns = ("prompts, batch", "plain tok/s", *names[1:], "auto / best fixed", "best")
    rows = []
    for case in cases:
        times = [f"{arm['of_plain']:.2f}x" for arm in case["arms"][1:]]
        rate = case["arms"][0]["tokens_per_second"]
        name = f"{case['set']}, {case['batch']}"
        rows.append((name, rate, *times, f"{case['of_best']:.3f}", case["best"]))
    return [table("The engine's choice of blocks against fixed ones", columns, rows)]


def plot(result: Result) -> Figure:
    """Speed over plain decoding by arm, one line per set and batch."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for case in result.measured["cases"]:
        arms = case["arms"]
        label = f"{case['set']}, {case['batch']}"
        axes.plot(
            [arm["name"] for arm in arms], [arm["of_plain"] for arm in arms], "o-", label=label
        )
    axes.axhline(1.0, color="grey", linestyle="--")
    axes.set(title="decoding, times plain", ylim=(0, None))
    axes.legend(fontsize=8)
    return figure
