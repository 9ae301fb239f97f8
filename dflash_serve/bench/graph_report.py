"""Tables and plot of `dflash-bench graph`."""

from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table, table_of
from dflash_serve.bench.roofline import COMPUTE, LAUNCHES
from dflash_serve.measure.results import Result

_ROLES = ("weights", "drafter weights", "caches", "activations", "logits", "masks")
_PLOTTED = ("M1", "M2 Max", "M4 Pro", "M4 Max", "M5 Max", "RTX 4090", "H100 SXM")
_MOST_KERNELS = 16


def tables(result: Result) -> list[Table]:
    rounds: list[dict[str, Any]] = result.measured["rounds"]
    title = f"A round of {result.settings['shape']} on a GPU, by its graph (no GPU was used)"
    return [
        table_of(
            title,
            rounds,
            (
                ("rows, block", _name),
                ("kernels", "launches"),
                ("not fused", lambda row: row["launches_unfused"] + row["launches_settle"]),
                ("of them copies", "copies"),
                ("GFLOP", lambda row: row["flops"] / 1e9),
                ("host syncs", "syncs"),
                ("host ms", lambda row: row["host_seconds"]["built"] * 1e3),
                ("traced", lambda row: row["host_seconds"]["traced"] * 1e3),
            ),
        ),
        table("GB read and written", ("rows, block", "all", *_ROLES), map(_bytes, rounds)),
        _kernels([row for row in rounds if not row["sampled"]]),
        _machines(result),
    ]


def _bytes(row: dict[str, Any]) -> tuple[object, ...]:
    roles = (row["read"].get(role, 0) + row["written"].get(role, 0) for role in _ROLES)
    return _name(row), row["bytes"] / 1e9, *(one / 1e9 for one in roles)


def _kernels(rounds: list[dict[str, Any]]) -> Table:
    """Launches by kind of kernel, a column for each round."""
    counts = {
        _name(row): {one["kind"]: one["launches"] for one in row["kernels"]} for row in rounds
    }
    kinds = sorted(
        {kind for row in counts.values() for kind in row},
        key=lambda kind: -max(row.get(kind, 0) for row in counts.values()),
    )
    rows = [(kind, *(row.get(kind, 0) for row in counts.values())) for kind in kinds]
    return table("Launches by kind", ("kernel", *counts), rows[:_MOST_KERNELS])


def _machines(result: Result) -> Table:
    """Plain decoding, and what each block makes of it."""
    found: list[dict[str, Any]] = result.measured["machines"]
    blocks = list(dict.fromkeys(row["block"] for row in found))
    by_machine: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in found:
        by_machine.setdefault((row["part"], row["rows"]), []).append(row)
    rows = [
        (
            f"{part}, {count}",
            same[0]["plain_ms"],
            same[0]["plain_bound"],
            *(f"{row['speedup']:.2f} {row['round_bound']}" for row in same),
        )
        for (part, count), same in by_machine.items()
    ]
    taus = {row["block"]: row["tau"] for row in found}
    columns = [f"block {block}, tau {taus[block]:.2g}" for block in blocks]
    title = "Expected times faster than plain decoding by kernels alone, and what takes the most"
    return table(title, ("machine, rows", "plain ms", "bound by", *columns), rows)


def _name(row: dict[str, Any]) -> str:
    return f"{row['rows']}, {row['name']}"


def plot(result: Result) -> Figure:
    """What takes a round's time on some machines, plain decoding beside the widest block."""
    found: list[dict[str, Any]] = result.measured["machines"]
    widest = max((row["block"] for row in found), default=0)
    counts = list(dict.fromkeys(row["rows"] for row in found))
    figure = Figure(figsize=(6 * max(1, len(counts)), 5), layout="constrained")
    for axes, count in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts, strict=True):
        bars = {
            f"{row['part']}, {name}: {row[f'{key}_ms']:.3g} ms": row[f"{key}_shares"]
            for row in found
            if row["rows"] == count and row["block"] == widest and row["part"] in _PLOTTED
            for name, key in (("plain", "plain"), (f"block {widest}", "round"))
        }
        start = [0.0] * len(bars)
        for name in (*_ROLES, COMPUTE, LAUNCHES):
            share = [shares.get(name, 0.0) / sum(shares.values()) for shares in bars.values()]
            axes.barh(list(bars), share, left=start, label=name)
            start = [before + own for before, own in zip(start, share, strict=True)]
        axes.set(title=f"rows: {count}, shares of a round's expected time", xlim=(0, 1))
        axes.invert_yaxis()
    if counts:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize="small")
    return figure
