"""Times the package's kernels: the CPU matmul under MLX, and the small ones (`kernel_forms`).

The matmul is compared with the one that MLX is installed with. Each library gets processes of its
own, in turn, as MLX binds its matmul when it is imported. Writes no file.
"""

import json
import os
import sys
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
from dflash_serve.bench.report import lines, picture, table_of
from dflash_serve.bench.spawn import run_job
from dflash_serve.bench.turns import Timing, for_seconds
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
    mflop = 2e-6 * shape.m * shape.n * shape.k
    return {
        **asdict(shape),
        "ours": mine,
        "stock": theirs,
        "speedup": {name: round(theirs[name] / mine[name], 2) for name in mine},
        "ours_gflops": round(mflop / mine["cpu_min"], 1),
        "stock_gflops": round(mflop / theirs["cpu_min"], 1),
    }


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
    return part["blas"], [[Timing(*one) for one in cell] for cell in part["timings"]]


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    with mx.stream(mx.cpu):
        cells = [_time(Shape(**shape), job["repeats"]) for shape in job["shapes"]]
    return {"blas": blas(), "timings": cells}


def _time(shape: Shape, repeats: int) -> list[Timing]:
    """MLX's own dispatch is part of every call."""
    mx.random.seed(0)
    x = mx.random.normal((shape.m, shape.k))
    other = mx.random.normal((shape.n, shape.k) if shape.weight else (shape.k, shape.n))

    def multiply() -> None:
        mx.eval(x @ (other.T if shape.weight else other))

    multiply()
    return for_seconds(multiply, _CELL_SECONDS, least=3, most=repeats)


def tables(result: Result) -> list[Table]:
    found = result.measured
    columns = "name m n k ours.median ours.min stock.median stock.min speedup.median ours_gflops "
    matmul = table_of("CPU matmul through MLX, ms", found["matmul"], columns + "stock_gflops")
    columns = "kernel shape form ms min_ms speedup"
    forms = table_of("Kernels and their plain forms", found["forms"], columns)
    return [matmul, forms] if found["matmul"] else [forms]


def plot(result: Result) -> Figure:
    """GFLOP/s by rows, one line per shape and library."""
    cells = [
        {"rows": row["m"], "by": f"{row['name']}, {library}", "gflops": row[f"{library}_gflops"]}
        for row in result.measured["matmul"]
        for library in LIBRARIES
    ]
    title = "float32 matmul, GFLOP/s"
    return picture(lines(title, cells, "rows", "gflops", "by", style="powers"), width=8)


if __name__ == "__main__":
    print(json.dumps(_measure(json.load(sys.stdin))))
