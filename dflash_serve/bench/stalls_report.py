"""Tables and plot of `dflash-bench stalls`."""

from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table, table_of
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    made = []
    if rows := _rows(result):
        columns = (
            ("beside the streams", "name"),
            ("seconds", "seconds"),
            ("quiet", "quiet_ms"),
            ("during", "during_ms"),
            ("added", "added_ms"),
            ("added, median", "added_ms_median"),
        )
        made.append(table_of("Longest gap between chunks, in milliseconds", rows, columns))
    if behind := result.measured.get("short_behind_long"):
        title = f"{behind['short_prompt_tokens']} tokens behind {behind['prompt_tokens']}"
        values = [
            ("chunks until the first token", behind["steps"]),
            ("seconds until the first token", behind["seconds"]),
            ("longest chunk, ms", behind["longest_step_ms"]),
        ]
        made.append(table(title, ("", ""), values))
    return made


def plot(result: Result) -> Figure:
    """The longest gap of quiet streams beside that of disturbed ones."""
    rows = _rows(result)
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    names = [row["name"] for row in rows]
    places = range(len(rows))
    axes.barh([at - 0.2 for at in places], [row["quiet_ms"] for row in rows], 0.4, label="quiet")
    axes.barh([at + 0.2 for at in places], [row["during_ms"] for row in rows], 0.4, label="during")
    axes.set_yticks(list(places), names)
    axes.set(title="What holds streams up", xlabel="longest gap between chunks, ms")
    axes.invert_yaxis()
    axes.legend()
    return figure


def _rows(result: Result) -> list[dict[str, Any]]:
    return [*result.measured.get("bodies", ()), *result.measured.get("swaps", ())]
