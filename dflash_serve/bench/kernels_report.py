"""Tables and plot of `dflash-bench kernels`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table
from dflash_serve.measure.results import Result

_COLUMNS = (
    "m x n x k",
    "ours ms",
    "min",
    "stock ms",
    "min",
    "stock / ours",
    "ours GFLOP/s",
    "stock GFLOP/s",
)
_FORMS = ("kernel", "shape", "form", "ms", "min", "times faster")


def tables(result: Result) -> list[Table]:
    rows = [
        (
            f"{row['name']} {row['m']} x {row['n']} x {row['k']}",
            row["ours"]["median"],
            row["ours"]["min"],
            row["stock"]["median"],
            row["stock"]["min"],
            f"{row['speedup']['median']:.1f}x",
            row["ours_gflops"],
            row["stock_gflops"],
        )
        for row in result.measured["matmul"]
    ]
    forms = [
        (row["kernel"], row["shape"], row["form"], row["ms"], row["min_ms"], f"{row['speedup']}x")
        for row in result.measured["forms"]
    ]
    matmul = [table("CPU matmul through MLX", _COLUMNS, rows)] if rows else []
    return [*matmul, table("Kernels and their plain forms", _FORMS, forms)]


def plot(result: Result) -> Figure:
    """GFLOP/s by rows, one line per shape and library."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = result.measured["matmul"]
    for number, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
        same = [row for row in rows if row["name"] == name]
        x = [row["m"] for row in same]
        color = f"C{number}"
        axes.plot(x, [row["ours_gflops"] for row in same], "o-", color=color, label=name)
        axes.plot(x, [row["stock_gflops"] for row in same], "x--", color=color)
    axes.set(title="float32 matmul: ours (o), the wheel's (x)", xlabel="rows", ylabel="GFLOP/s")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    if rows:
        axes.legend()
    return figure
