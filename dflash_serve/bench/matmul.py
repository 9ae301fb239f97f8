"""Times the float32 matmul that this package puts under MLX against the OpenBLAS inside numpy.

Both run in this process, in turns, on the same arrays. Knows nothing of MLX. Writes no file.
"""

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import MatmulOptions
from dflash_serve.bench.report import Panel, lines, picture, table_of
from dflash_serve.bench.turns import for_seconds
from dflash_serve.kernels import cpu_blas
from dflash_serve.measure.results import Result

_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112
_TURN_SECONDS = 0.03
_REST_SECONDS = 0.13  # OpenBLAS's idle threads spin for a tenth of a second
_TOLERANCE = 1e-5  # of the largest element: both libraries round, in different orders


@dataclass(frozen=True, slots=True)
class Product:
    """C[m, n] of A and B. B is [n, k] in form xw and [k, n] in the others; A is [k, m] in atb."""

    form: str
    m: int
    n: int
    k: int

    @property
    def gflop(self) -> float:
        return 2e-9 * self.m * self.n * self.k


_WEIGHTS = ((3584, 1024), (1024, 3584), (1536, 192), (4096, 4096))
PRODUCTS = (
    *(Product("xw", m, n, k) for n, k in _WEIGHTS for m in (1, 2, 4, 8, 16, 64, 256)),
    *(Product("xw", m, 151_936, 1024) for m in (1, 8)),
    *(Product("xw", 2048, n, k) for n, k in _WEIGHTS[:3]),
    *(Product("pv", m, n, k) for n, k in ((1024, 3584), (64, 512)) for m in (1, 8, 64, 1024)),
    *(Product("atb", m, 1024, 2048) for m in (192, 1024)),
)


@dataclass(frozen=True, slots=True)
class _Pair:
    """One product in both libraries, and the arrays that they write."""

    ours: Callable[[], object]
    openblas: Callable[[], object]
    results: tuple[np.ndarray, np.ndarray]


def run(options: MatmulOptions, products: Sequence[Product] = PRODUCTS) -> Result:
    """GFLOP/s of both libraries by product and number of threads, and their ratios.

    Raises:
        BenchError: a library is missing, or the results of the two differ.
    """
    status = cpu_blas.status()
    if status.path is None:
        raise BenchError(f"this package's matmul is not in use: {status.reason}")
    ours = ctypes.CDLL(str(status.path))
    openblas = _openblas()
    with _threads_kept(ours, status.threads or 1):
        rows = [_row(product, options, ours, openblas) for product in products]
    measured = {"numpy": np.__version__, "isa": status.isa, "products": rows}
    return Result("matmul", options.recorded(), measured)


def _openblas() -> Callable[[int], object]:
    """Sets the number of threads of the OpenBLAS that numpy brings along."""
    package = Path(np.__file__).parent
    for path in package.with_name("numpy.libs").glob("*openblas*"):
        library = ctypes.CDLL(str(path))
        for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads"):
            if hasattr(library, name):
                setter: Callable[[int], object] = getattr(library, name)
                return setter
    raise BenchError(f"numpy at {package} brings no OpenBLAS along to compare with")


@contextmanager
def _threads_kept(ours: ctypes.CDLL, threads: int) -> Iterator[None]:
    try:
        yield
    finally:
        ours.dflash_blas_set_threads(threads)


def _row(
    product: Product,
    options: MatmulOptions,
    ours: ctypes.CDLL,
    set_openblas_threads: Callable[[int], object],
) -> dict[str, Any]:
    pair = _pair(product, ours)
    counts = []
    for threads in options.threads:
        ours.dflash_blas_set_threads(threads)
        set_openblas_threads(threads)
        counts.append({"threads": threads, **_compare(pair, product, options.turns, threads)})
    _check(product, pair)
    one = next((cell for cell in counts if cell["threads"] == 1), None)
    gain = {
        f"{name}_{cell['threads']}_to_1": round(cell[name]["best"] / one[name]["best"], 2)
        for cell in counts
        for name in ("ours", "openblas")
        if one is not None and cell is not one
    }
    return {**asdict(product), "counts": counts, **gain}


def _pair(product: Product, library: ctypes.CDLL) -> _Pair:
    rng = np.random.default_rng(0)
    m, n, k = product.m, product.n, product.k
    ta, tb = product.form == "atb", product.form == "xw"
    a = rng.standard_normal((k, m) if ta else (m, k), dtype=np.float32)
    b = rng.standard_normal((n, k) if tb else (k, n), dtype=np.float32)
    mine, theirs = np.zeros((m, n), np.float32), np.zeros((m, n), np.float32)
    places = [ctypes.c_void_p(x.ctypes.data) for x in (a, b, mine)]
    forms = [_TRANSPOSED if flag else _PLAIN for flag in (ta, tb)]
    one, zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
    tail = (places[0], a.shape[1], places[1], b.shape[1], zero, places[2], n)
    left, right = a.T if ta else a, b.T if tb else b

    def ours() -> object:
        return library.cblas_sgemm(_ROW_MAJOR, *forms, m, n, k, one, *tail)

    def openblas() -> object:
        return np.matmul(left, right, out=theirs)

    return _Pair(ours, openblas, (mine, theirs))


def _compare(pair: _Pair, product: Product, turns: int, threads: int) -> dict[str, Any]:
    """GFLOP/s of the fastest call and of the median one, and ours over theirs."""
    seconds: dict[str, list[float]] = {"ours": [], "openblas": []}
    for _ in range(turns):
        seconds["ours"] += _turn(pair.ours)
        seconds["openblas"] += _turn(pair.openblas)
        if threads > 1:
            time.sleep(_REST_SECONDS)
    speeds = {
        name: {"best": product.gflop / min(times), "median": product.gflop / median(times)}
        for name, times in seconds.items()
    }
    ratios = {key: round(own / speeds["openblas"][key], 3) for key, own in speeds["ours"].items()}
    return {**speeds, "ratio": ratios}


def _turn(call: Callable[[], object]) -> list[float]:
    call()
    return [one.wall for one in for_seconds(call, _TURN_SECONDS)]


def _check(product: Product, pair: _Pair) -> None:
    mine, theirs = pair.results
    worst = float(np.abs(mine - theirs).max() / np.abs(theirs).max())
    if not worst <= _TOLERANCE:
        raise BenchError(f"{product} differs from OpenBLAS by {worst:.1e} of its largest element")


def tables(result: Result) -> list[Table]:
    columns = "form m n k threads ours.best ours.median openblas.best openblas.median ratio.best "
    title = "float32 matmul: this package's and OpenBLAS's, GFLOP/s"
    return [table_of(title, _cells(result), columns + "ratio.median to_1_thread")]


def _cells(result: Result) -> list[dict[str, Any]]:
    """One for each product and number of threads."""
    return [
        row | cell | {"to_1_thread": row.get(f"ours_{cell['threads']}_to_1")}
        for row in result.measured["products"]
        for cell in row["counts"]
    ]


def plot(result: Result) -> Figure:
    """Ours over OpenBLAS by rows, one line per matrix, one field per number of threads."""
    cells = _cells(result)

    def field(threads: int) -> Panel:
        own = [cell for cell in cells if cell["threads"] == threads]
        title = f"speed / OpenBLAS's, threads: {threads}"
        return lines(title, own, "m", "ratio.best", _matrix, limit=1.0, style="powers")

    return picture(*map(field, dict.fromkeys(cell["threads"] for cell in cells)))


def _matrix(cell: dict[str, Any]) -> str:
    return f"{cell['form']} {cell['n']} x {cell['k']}"
