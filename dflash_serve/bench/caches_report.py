"""Tables and plot of `dflash-bench caches`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.caches import LEAVE, RAGGED
from dflash_serve.bench.report import table_of
from dflash_serve.bench.schedules import ALLOWED
from dflash_serve.measure.results import Result

_COUNTS = ("target", "schedules", "steps", "requests", "aborts", "swaps")


def tables(result: Result) -> list[Table]:
    found, options = result.measured, result.settings
    short = options["rows"] - 1
    parts = f"one row of {options['long']} tokens, {short} of {options['short']}"
    return [
        table_of(
            f"Rounds: {parts}",
            found["ragged"],
            (
                ("block", "block"),
                *((f"{name}, ms", f"round_ms.{name}") for name in ("long", "short", "all")),
                ("ratio", "ratio"),
            ),
        ),
        table_of(
            f"A leave: {options['rows']} rows of {options['leave']} tokens, bytes allocated",
            found["leave"],
            (
                ("block", "block"),
                ("round, ms", "round_ms"),
                ("one less", "without_ms"),
                ("and leave", "with_ms"),
                ("cost", "of_a_round"),
                ("bytes", "bytes.without"),
                ("with it", "bytes.with"),
                ("a row's", "row_bytes"),
            ),
        ),
        table_of(
            "Bytes of caches in random schedules",
            found["schedules"],
            (
                *((name, name) for name in _COUNTS),
                ("of needs", "worst_ratio_beyond_slack"),
                ("of limit", "worst_of_limit"),
                ("wrong", "wrong"),
            ),
        ),
    ]


def plot(result: Result) -> Figure:
    """Every figure against what is allowed, as shares of it."""
    found = result.measured
    bars = {f"ragged rows, block {one['block']}": one["ratio"] / RAGGED for one in found["ragged"]}
    for one in found["leave"]:
        bars[f"leave, block {one['block']}"] = one["of_a_round"] / LEAVE
    for one in found["schedules"]:
        bars[f"bytes of needs, {one['target']}"] = one["worst_ratio_beyond_slack"] / ALLOWED
        bars[f"bytes of limit, {one['target']}"] = one["worst_of_limit"]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(bars), list(bars.values()))
    axes.axvline(1.0, color="grey", linestyle="--", linewidth=1)
    axes.set(title="Rows that own their caches", xlabel="share of what is allowed")
    return figure
