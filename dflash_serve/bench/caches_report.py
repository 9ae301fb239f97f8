"""Tables and plot of `dflash-bench caches`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.caches import LEAVE, RAGGED
from dflash_serve.bench.report import table
from dflash_serve.bench.schedules import ALLOWED
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    found, options = result.measured, result.settings
    ragged = [
        (one["block"], *(one["round_ms"][name] for name in ("long", "short", "all")), one["ratio"])
        for one in found["ragged"]
    ]
    leaves = [
        (
            *(one[name] for name in ("block", "round_ms", "without_ms", "with_ms", "of_a_round")),
            *(one["bytes"][name] for name in ("without", "with")),
            one["row_bytes"],
        )
        for one in found["leave"]
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
        table(
            f"A leave: {options['rows']} rows of {options['leave']} tokens, bytes allocated",
            ("block", "round, ms", "one less", "and leave", "cost", "bytes", "with it", "a row's"),
            leaves,
        ),
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
