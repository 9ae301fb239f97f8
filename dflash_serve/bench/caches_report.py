"""Tables and plot of `dflash-bench caches`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.caches import LEAVE, RAGGED
from dflash_serve.bench.report import Result, table
from dflash_serve.bench.schedules import ALLOWED


def tables(result: Result) -> list[Table]:
    found, options = result.measured, result.settings
    ragged = [
        (one["block"], *(one["round_ms"][name] for name in ("long", "short", "all")), one["ratio"])
        for one in found["ragged"]
    ]
    leave = found["leave"]
    leaving: list[tuple[object, ...]] = [
        ("round of all rows, ms", leave["round_ms"]),
        ("round without one of them, ms", leave["without_ms"]),
        ("the same and the step in which it leaves, ms", leave["with_ms"]),
        ("cost of the leave, share of a round", leave["of_a_round"]),
        ("most bytes allocated, with the leave", leave["bytes"]["with"]),
        ("most bytes allocated, without", leave["bytes"]["without"]),
        ("bytes of a row", leave["row_bytes"]),
    ]
    schedules = [
        (
            one["target"],
            *(one[name] for name in ("schedules", "steps", "requests", "aborts", "swaps")),
            *(one[name] for name in ("worst_ratio_beyond_slack", "worst_of_limit", "wrong")),
        )
        for one in found["schedules"]
    ]
    short = options["rows"] - 1
    parts = f"one row of {options['long']} tokens, {short} of {options['short']}"
    columns = ("target", "schedules", "steps", "requests", "aborts", "swaps")
    return [
        table(f"Rounds: {parts}", ("block", "long, ms", "short, ms", "all, ms", "ratio"), ragged),
        table(f"A leave: {options['rows']} rows of {options['leave']} tokens", ("", ""), leaving),
        table(
            "Bytes of caches in random schedules",
            (*columns, "of needs", "of limit", "wrong"),
            schedules,
        ),
    ]


def plot(result: Result) -> Figure:
    """Every figure against what is allowed, as shares of it."""
    found = result.measured
    bars = {f"ragged rows, block {one['block']}": one["ratio"] / RAGGED for one in found["ragged"]}
    bars["leave, time"] = found["leave"]["of_a_round"] / LEAVE
    for one in found["schedules"]:
        bars[f"bytes of needs, {one['target']}"] = one["worst_ratio_beyond_slack"] / ALLOWED
        bars[f"bytes of limit, {one['target']}"] = one["worst_of_limit"]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(bars), list(bars.values()))
    axes.axvline(1.0, color="grey", linestyle="--", linewidth=1)
    axes.set(title="Rows that own their caches", xlabel="share of what is allowed")
    return figure
