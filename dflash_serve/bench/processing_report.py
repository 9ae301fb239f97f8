"""Tables and plot of `dflash-bench processing`."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    found = result.measured
    rounds = [(e["rows"], e["option"], e["round_ms"], e["ratio"]) for e in found["rounds"]]
    structured = [
        (
            entry["rows"],
            entry["tokens_per_second"]["plain"],
            entry["tokens_per_second"]["schema"],
            entry["ratio"],
            *(_both(entry["rounds"][arm]) for arm in ("plain", "schema")),
        )
        for entry in found["structured"]
    ]
    beside, mask = found["neighbours"], found["first_mask"]
    others = [
        ("round of 8 rows, one of them with a schema, ms", beside["round_ms"]["schema"]),
        ("the same without, ms", beside["round_ms"]["plain"]),
        ("ratio", beside["ratio"]),
        ("schema of 100 fields to its first mask, ms", mask["median_ms"]),
        ("worst, ms", mask["worst_ms"]),
    ]
    vocab = result.settings["vocab"]
    return [
        table(f"Rounds, vocabulary {vocab}", ("rows", "option", "ms", "ratio"), rounds),
        table(
            "Demo pair, JSON prompts",
            ("rows", "tokens/s", "with schema", "ratio", "tokens/round (pooled)", "with schema"),
            structured,
        ),
        table("Neighbours and compilation", ("what", "value"), others),
    ]


def plot(result: Result) -> Figure:
    """Ratios of rounds with each option to rounds without."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    entries = result.measured["rounds"]
    numbers = sorted({entry["rows"] for entry in entries})
    for at, rows in enumerate(numbers):
        own = [entry for entry in entries if entry["rows"] == rows]
        places = [index + 0.8 * at / len(numbers) for index in range(len(own))]
        axes.barh(places, [e["ratio"] for e in own], 0.8 / len(numbers), label=f"{rows} rows")
    names = [entry["option"] for entry in entries if entry["rows"] == numbers[0]]
    axes.set_yticks(range(len(names)), names)
    axes.axvline(1.1, color="grey", linestyle="--", linewidth=1)
    axes.set(title="Cost of processing a round", xlabel="times a round without", xlim=(0, None))
    axes.legend()
    return figure


def _both(rounds: Mapping[str, float]) -> str:
    return f"{rounds['tokens_per_round']:.2f} ({rounds['tokens_per_round_pooled']:.2f})"
