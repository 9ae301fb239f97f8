"""Times the package's kernels: the CPU matmul under MLX, and the small ones (`kernel_forms`).

The matmul is compared with the one that MLX is installed with. Each library gets processes of its
own, in turn, as MLX binds its matmul when it is imported. Writes no file.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import mlx.core as mx
from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.kernel_forms import run_forms
from dflash_serve.bench.options import KernelsOptions
from dflash_serve.bench.report import canvas, table_of
from dflash_serve.bench.spawn import run_job
from dflash_serve.kernels import cpu_blas
from dflash_serve.measure.results import Result, blas

LIBRARIES = {"ours": "auto", "stock": "off"}
"""Name in the results -> value of DFLASH_CPU_BLAS."""

_ROUNDS = 2  # each library's turn comes twice, so that a busy moment hits both
_CELL_SECONDS = 1.5  # a slow cell is repeated less often, but thrice at least


@dataclass(frozen=True, slots=True)
class Shape:
    """x[m, k] times w[n, k] transposed (``weight``), or times v[k, n]."""

    name: str
    m: int
    n: int
    k: int
    weight: bool = True


SHAPES = (
    *(Shape("projection", m, 3584, 1024) for m in (1, 4, 8, 16, 32, 64, 256)),
    *(Shape("demo projection", m, 768, 192) for m in (1, 8, 64)),
    *(Shape("attention scores", m, 512, 64) for m in (1, 8, 16)),
    *(Shape("attention values", m, 64, 512, weight=False) for m in (1, 8, 16)),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: on the clock, and of processor time, which neighbours disturb less."""

    wall: float
    cpu: float


def run(options: KernelsOptions, shapes: Sequence[Shape] = SHAPES, vocab: int = 151_936) -> Result:
    """The matmul by shape, where MLX has none of its own that is fast, and every kernel's forms.

    Raises:
        BenchError: a process failed, or this package's library cannot be used here.
    """
    needless = cpu_blas.status().state is cpu_blas.CpuBlasState.NOT_NEEDED
    repeats = options.repeats
    matmul = {"matmul": []} if needless else _run_matmul(repeats, shapes)
    measured = {"repeats": repeats, **matmul, "forms": run_forms(repeats, vocab)}
    return Result("kernels", options.recorded(), measured)


def _run_matmul(repeats: int, shapes: Sequence[Shape]) -> dict[str, Any]:
    """One row per shape: milliseconds of each library and how many times faster ours is."""
    timings: dict[str, list[list[Timing]]] = {name: [[] for _ in shapes] for name in LIBRARIES}
    loaded: dict[str, Any] = {}
    for _ in range(_ROUNDS):
        for name, switch in LIBRARIES.items():
            loaded[name], cells = _in_process(repeats, shapes, switch)
            for index, cell in enumerate(cells):
                timings[name][index] += cell
    if loaded["ours"]["state"] != cpu_blas.CpuBlasState.LOADED.value:
        raise BenchError(f"this package's matmul is not in use: {loaded['ours']['reason']}")
    rows = [
        _row(shape, ours, stock)
        for shape, ours, stock in zip(shapes, timings["ours"], timings["stock"], strict=True)
    ]
    return {"libraries": loaded, "matmul": rows}


def _row(shape: Shape, ours: list[Timing], stock: list[Timing]) -> dict[str, Any]:
    mine, theirs = _milliseconds(ours), _milliseconds(stock)
    return {
        **asdict(shape),
        "ours": mine,
        "stock": theirs,
        "speedup": {name: round(theirs[name] / mine[name], 2) for name in mine},
        "ours_gflops": round(_gflop(shape) / mine["cpu_min"] * 1e3, 1),
        "stock_gflops": round(_gflop(shape) / theirs["cpu_min"] * 1e3, 1),
    }


def _gflop(shape: Shape) -> float:
    return 2e-9 * shape.m * shape.n * shape.k


def _milliseconds(timings: list[Timing]) -> dict[str, float]:
    walls = [timing.wall for timing in timings]
    values = {"median": median(walls), "min": min(walls), "cpu_min": min(t.cpu for t in timings)}
    return {name: round(value * 1e3, 5) for name, value in values.items()}


def _in_process(
    repeats: int, shapes: Sequence[Shape], switch: str
) -> tuple[dict[str, Any], list[list[Timing]]]:
    command = [sys.executable, "-P", "-m", __name__]
    job = {"repeats": repeats, "shapes": [asdict(shape) for shape in shapes]}
    part = run_job("the matmul benchmark", command, job, os.environ | {"DFLASH_CPU_BLAS": switch})
    return part["blas"], [[Timing(**one) for one in cell] for cell in part["timings"]]


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    with mx.stream(mx.cpu):
        cells = [_time(Shape(**shape), job["repeats"]) for shape in job["shapes"]]
    return {"blas": blas(), "timings": [[asdict(one) for one in cell] for cell in cells]}


def _time(shape: Shape, repeats: int) -> list[Timing]:
    """MLX's own dispatch is part of every call."""
    mx.random.seed(0)
    x = mx.random.normal((shape.m, shape.k))
    other = mx.random.normal((shape.n, shape.k) if shape.weight else (shape.k, shape.n))
    mx.eval(x, other, x @ (other.T if shape.weight else other))
    timings: list[Timing] = []
    deadline = time.perf_counter() + _CELL_SECONDS
    while len(timings) < repeats and (len(timings) < 3 or time.perf_counter() < deadline):
        wall, cpu = time.perf_counter(), time.process_time()
        mx.eval(x @ (other.T if shape.weight else other))
        timings.append(Timing(time.perf_counter() - wall, time.process_time() - cpu))
    return timings


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
    figure, axes = canvas(8, 4.5)
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


if __name__ == "__main__":
    print(json.dumps(_measure(json.load(sys.stdin))))
