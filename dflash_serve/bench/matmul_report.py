"""Tables and plot of `dflash-bench matmul`."""

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.report import table_of
from dflash_serve.measure.results import Result


def tables(result: Result) -> list[Table]:
    cells = [
        cell
        | {
            "product": f"{row['form']} {row['m']} x {row['n']} x {row['k']}",
            "to_1": row.get(f"ours_{cell['threads']}_to_1"),
        }
        for row in result.measured["products"]
        for cell in row["counts"]
    ]
    columns = (
        ("form m x n x k", "product"),
        ("threads", "threads"),
        ("ours GFLOP/s", "ours.best"),
        ("median", "ours.median"),
        ("OpenBLAS", "openblas.best"),
        ("median", "openblas.median"),
        ("ratio", "ratio.best"),
        ("of medians", "ratio.median"),
        ("to one thread", "to_1"),
    )
    return [table_of("float32 matmul: this package's and OpenBLAS's", cells, columns)]


def plot(result: Result) -> Figure:
    """Ours over OpenBLAS by rows, one line per matrix, one field per number of threads."""
    rows = result.measured["products"]
    counts = [cell["threads"] for cell in rows[0]["counts"]]
    figure = Figure(figsize=(5.5 * len(counts), 4.5), layout="constrained")
    fields = figure.subplots(1, len(counts), squeeze=False)[0]
    for index, (axes, threads) in enumerate(zip(fields, counts, strict=True)):
        matrices = dict.fromkeys((row["form"], row["n"], row["k"]) for row in rows)
        for form, n, k in matrices:
            same = [row for row in rows if (row["form"], row["n"], row["k"]) == (form, n, k)]
            ratios = [row["counts"][index]["ratio"]["best"] for row in same]
            axes.plot([row["m"] for row in same], ratios, "o-", label=f"{form} {n} x {k}")
        axes.axhline(1.0, color="grey", linewidth=0.8)
        axes.set(title=f"threads: {threads}", xlabel="rows", ylabel="speed / OpenBLAS's")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    fields[0].legend(fontsize="small")
    return figure
