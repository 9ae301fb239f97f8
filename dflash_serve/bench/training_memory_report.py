"""Tables and plot of `dflash-bench training-memory`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result

_STEPS = ("pair", "layers", "million weights", "held GB", "peak GB", "planned GB", "step s")
_PAIRS = ("pair", "layers", "peak GB", "planned GB", "how")


def tables(result: Result) -> list[Table]:
    steps, pairs = [], []
    for name, found in result.measured.items():
        for layers, step in found["steps"].items():
            sizes = (step[key] / 1e9 for key in ("held_bytes", "peak_bytes", "planned_bytes"))
            million = step["parameters"] / 1e6
            steps.append((name, layers, million, *sizes, step["seconds"][-1]))
        whole = str(found["layers"]) in found["steps"]
        peak = found["peak_bytes"]
        pairs.append(
            (
                name,
                found["layers"],
                None if peak is None else peak / 1e9,
                found["planned_bytes"] / 1e9,
                "measured" if whole else "from one and two layers",
            )
        )
    return [
        table("one step on one sequence", _STEPS, steps),
        table("the published drafter's step, without the rest of the target", _PAIRS, pairs),
    ]


def plot(result: Result) -> Figure:
    """Peaks as measured and as planned."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    labels = [
        f"{name}\n{layers} layers"
        for name, found in result.measured.items()
        for layers in found["steps"]
    ]
    for offset, key in ((-0.2, "peak_bytes"), (0.2, "planned_bytes")):
        heights = [
            step[key] / 1e9
            for found in result.measured.values()
            for step in found["steps"].values()
        ]
        places = [place + offset for place in range(len(heights))]
        axes.bar(places, heights, width=0.4, label=key.removesuffix("_bytes"))
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylabel("GB")
    axes.legend()
    return figure
