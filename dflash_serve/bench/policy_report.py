"""Tables and plot of `dflash-bench policy`, made from its JSON values alone."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    """All cases, then the worst and the median."""
    measured = result.measured
    columns = ("", "plain tok/s", "best fixed", "of plain", "auto of best", "of plain", "widths")
    rows = [_row(case) for case in measured["cases"]]
    rows += [
        (name, None, None, None, measured[name]["of_best"], measured[name]["of_plain"], None)
        for name in ("worst", "median")
    ]
    return [table("The policy against fixed blocks, in hindsight", columns, rows)]


def plot(result: Result) -> Figure:
    """What the policy reaches of the best fixed choice, by machine, with one mark per case."""
    cases = result.measured["cases"]
    names = list(dict.fromkeys(case["machine"] for case in cases))
    figure = Figure(figsize=(10, 4), layout="constrained")
    parts = figure.subplots(1, 2)
    for axes, key, least, title in zip(
        parts,
        ("of_best", "of_plain"),
        (result.settings["least_of_best"], result.settings["least_of_plain"]),
        ("of the best fixed choice", "of plain decoding"),
        strict=True,
    ):
        for at, name in enumerate(names):
            values = [case[key] for case in cases if case["machine"] == name]
            axes.plot([at] * len(values), values, "o", alpha=0.5)
        axes.axhline(least, color="grey", linestyle="--")
        axes.set(title=f"auto, {title}", xticks=range(len(names)))
        axes.set_xticklabels(names, rotation=20, ha="right")
    return figure


def _row(case: Mapping[str, Any]) -> tuple[object, ...]:
    best = max(case["plain"], *case["fixed"].values())
    name = f"{case['machine']}, {case['rows']} rows, {case['workload']}"
    widths = " ".join(f"{width}:{share:.0%}" for width, share in case["widths"].items())
    return (
        name,
        case["plain"],
        case["best_block"],
        f"{best / case['plain']:.2f}x",
        f"{case['of_best']:.3f}",
        f"{case['of_plain']:.3f}",
        widths,
    )
