"""Tables and plot of `dflash-bench kernels`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table_of
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    found = result.measured
    matmul = table_of(
        "CPU matmul through MLX",
        found["matmul"],
        (
            ("m x n x k", lambda row: f"{row['name']} {row['m']} x {row['n']} x {row['k']}"),
            ("ours ms", "ours.median"),
            ("min", "ours.min"),
            ("stock ms", "stock.median"),
            ("min", "stock.min"),
            ("stock / ours", lambda row: f"{row['speedup']['median']:.1f}x"),
            ("ours GFLOP/s", "ours_gflops"),
            ("stock GFLOP/s", "stock_gflops"),
        ),
    )
    forms = table_of(
        "Kernels and their plain forms",
        found["forms"],
        (
            ("kernel", "kernel"),
            ("shape", "shape"),
            ("form", "form"),
            ("ms", "ms"),
            ("min", "min_ms"),
            ("times faster", lambda row: f"{row['speedup']}x"),
        ),
    )
    return [matmul, forms] if found["matmul"] else [forms]


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
