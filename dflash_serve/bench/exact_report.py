"""Table and plot of `dflash-bench exact`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import Source, table_of
from dflash_serve.measure.results import Result

_COLUMNS = (
    "equal",
    "different",
    "cancelled_prefix",
    "cancelled_different",
    "late_joins",
    "leaked_rows",
    "rounds",
    "accepted_drafts",
    "seconds",
)


def tables(result: Result) -> list[Table]:
    measured = result.measured
    title = f"{measured['compared']} requests against plain decoding, {measured['wrong']} wrong"
    columns: list[tuple[str, Source]] = [
        ("", lambda entry: f"batch {entry['batch']}, block {entry['block']}"),
        *((name.replace("_", " "), name) for name in _COLUMNS),
    ]
    return [table_of(title, measured["combinations"], columns)]


def plot(result: Result) -> Figure:
    """Outcomes by combination."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    entries = result.measured["combinations"]
    names = [f"{entry['batch']} x {entry['block']}" for entry in entries]
    bottom = [0] * len(entries)
    for column in ("equal", "cancelled_prefix", "different", "cancelled_different"):
        counts = [entry[column] for entry in entries]
        axes.bar(names, counts, bottom=bottom, label=column.replace("_", " "))
        bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
    axes.set(title="answers by batch x block", ylabel="requests")
    axes.legend(loc="lower right")
    return figure
