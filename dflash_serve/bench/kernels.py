"""Times the package's kernels: the CPU matmul under MLX, and the forms of every small one.

The matmul is compared with the one that MLX is installed with: each library gets processes of its
own, in turn, as MLX binds its matmul when it is imported. The forms, plain, fast and MLX's own, are
traced as in the engine and compared in this process, on the default device. Writes no file.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import mlx.core as mx
from matplotlib.figure import Figure
from mlx_lm.models.gated_delta import gated_delta_ops
from rich.table import Table

from dflash_serve.bench import products
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import KernelsOptions
from dflash_serve.bench.products import SHAPES, Shape
from dflash_serve.bench.report import lines, picture, table_of
from dflash_serve.bench.spawn import run_job
from dflash_serve.bench.turns import Timing, timed
from dflash_serve.kernels import cpu_blas
from dflash_serve.kernels.acceptance_scan import acceptance_scan
from dflash_serve.kernels.block_conv import convolve, plain_convolve
from dflash_serve.kernels.dispatch import Backend, default_backend, kernel_backend
from dflash_serve.kernels.gated_delta import DeltaStates, DeltaTokens
from dflash_serve.kernels.gated_delta_replay import gated_delta_replay
from dflash_serve.kernels.native import native
from dflash_serve.kernels.selection import (
    Candidates,
    Rescoring,
    plain_top,
    plain_walk,
    top,
    walk,
)
from dflash_serve.kernels.token_choice import Draw, token_choice
from dflash_serve.kernels.tree_scan import tree_scan
from dflash_serve.kernels.verify_qmm import QuantisedWeight, verify_qmm
from dflash_serve.measure.results import Result

LIBRARIES = {"ours": "auto", "stock": "off"}
"""Name in the results -> value of DFLASH_CPU_BLAS."""

_ROUNDS = 2  # each library's turn comes twice, so that a busy moment hits both


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
    command = [sys.executable, "-P", "-m", products.__name__]
    job = {"repeats": repeats, "shapes": [asdict(shape) for shape in shapes]}
    part = run_job("the matmul benchmark", command, job, os.environ | {"DFLASH_CPU_BLAS": switch})
    return part["blas"], [[Timing(*one) for one in cell] for cell in part["timings"]]


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


_CELL_SECONDS = 1.0  # a slow form is repeated less often, but thrice at least

Arrays = tuple[mx.array, ...]
Form = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One kernel at one shape: what it takes, and its forms; the first is what others beat."""

    kernel: str
    shape: str
    inputs: Arrays
    forms: dict[str, Form]


def run_forms(repeats: int, vocab: int = 151_936) -> list[dict[str, Any]]:
    """One row per form: milliseconds, and how many times faster than the cell's first form.

    Tokens are chosen out of ``vocab``.
    """
    rows: list[dict[str, Any]] = []
    for cell in _cells(vocab):
        walls = _form_times(cell, repeats)
        base = next(iter(walls.values()))
        rows += [
            {
                "kernel": cell.kernel,
                "shape": cell.shape,
                "form": name,
                "ms": round(median(times) * 1e3, 5),
                "min_ms": round(min(times) * 1e3, 5),
                "speedup": round(min(base) / min(times), 2),
            }
            for name, times in walls.items()
        ]
    return rows


def _form_times(cell: Cell, repeats: int) -> dict[str, list[float]]:
    """Seconds of the forms' calls; the forms take turns, so that a busy moment hits all."""
    traced = {name: mx.compile(form) for name, form in cell.forms.items()}

    def call(run: Callable[..., Any]) -> None:
        mx.eval(run(*cell.inputs))

    calls = [partial(call, run) for run in traced.values()]
    walls = timed(calls, repeats, within=_CELL_SECONDS * len(calls))
    return dict(zip(traced, walls, strict=True))


def _cells(vocab: int) -> Iterator[Cell]:
    yield _scan(8, 16)
    yield _tree(8, 64, 16)
    yield _greedy(8, vocab)
    for name, settings in _DRAWS.items():
        yield _draw(name, settings, 8, vocab)
    yield _convolution(16, 256)
    for size in (1024, vocab):
        yield _selection(15, size)
    for width in (1, 8):
        yield _delta(1, width, (4, 8, 32, 32))
    yield _delta(4, 8, (4, 8, 32, 32))
    if kernel_backend() is not Backend.PLAIN:
        yield _replay(4, 8, (16, 32, 128, 128))
    if kernel_backend() is Backend.METAL:
        for rows in (2, 8, 16):
            yield _qmm(rows, 4096, 4096, 4)


def _by_backend(function: Callable[[Backend], Any]) -> dict[str, Callable[..., Any]]:
    """The plain form, and that of this device's hand-written kernel if there is one."""
    backends = dict.fromkeys((Backend.PLAIN, kernel_backend()))
    return {backend.value: function(backend) for backend in backends}


def _scan(rows: int, width: int) -> Cell:
    drafts, choices = _tokens(rows, width - 1), _tokens(rows, width)
    lengths = mx.full((rows,), width, dtype=mx.int32)
    forms = _by_backend(lambda backend: partial(acceptance_scan, backend=backend))
    return Cell("acceptance_scan", f"{rows} rows of {width}", (drafts, choices, lengths), forms)


def _tree(rows: int, nodes: int, depth: int) -> Cell:
    parents = mx.broadcast_to(mx.maximum(mx.arange(nodes) - 1, 0) // 2, (rows, nodes))
    lengths, limits = (mx.full((rows,), value, dtype=mx.int32) for value in (nodes, depth))
    inputs = (_tokens(rows, nodes), parents.astype(mx.int32), _tokens(rows, nodes), lengths, limits)
    forms = _by_backend(lambda backend: partial(tree_scan, depth=depth, backend=backend))
    return Cell("tree_scan", f"{rows} rows of {nodes} nodes, depth {depth}", inputs, forms)


_DRAWS = {
    "temperature": (0.7, 1.0, 0.0, 0.0),
    "top-p": (0.7, 0.8, 0.0, 0.0),
    "top-p, top-k": (0.7, 0.8, 20.0, 0.0),
}
"""temperature, top_p, top_k, min_p"""


def _greedy(width: int, vocab: int) -> Cell:
    logits = 3 * mx.random.normal((1, width, vocab))
    plain: Form = partial(token_choice, backend=Backend.PLAIN)
    forms = {"plain": plain} | _fast(logits, token_choice)
    return Cell("token_choice", f"greatest of {vocab}, {width} times", (logits,), forms)


def _draw(name: str, settings: tuple[float, ...], width: int, vocab: int) -> Cell:
    logits = 3 * mx.random.normal((1, width, vocab))
    keys = mx.random.randint(0, 2**31 - 1, (1, width, 2)).astype(mx.uint32)
    filtered = settings[1:] != (1.0, 0.0, 0.0)

    def draw(backend: Backend | None) -> Callable[..., mx.array]:
        def run(logits: mx.array, settings: mx.array, keys: mx.array) -> mx.array:
            return token_choice(logits, Draw(settings, keys, filtered), backend=backend)

        return run

    forms: dict[str, Callable[..., Any]] = {"plain": draw(Backend.PLAIN)}
    if native(logits) is not None or kernel_backend() is not Backend.PLAIN:
        forms["fast"] = draw(None)
    inputs = (logits, mx.array([settings], dtype=mx.float32), keys)
    return Cell("token_choice", f"{name}, {vocab}, {width} times", inputs, forms)


def _convolution(length: int, hidden: int) -> Cell:
    x, base = mx.random.normal((1, length, hidden)), mx.random.normal((2, 2, hidden))
    own = mx.random.normal((1, length, 2, 2, hidden // 16))
    forms = {"plain": partial(plain_convolve, side=0)} | _fast(x, partial(convolve, side=0))
    return Cell("block_conv", f"a block of {length}, {hidden} channels", (x, base, own), forms)


def _selection(slots: int, vocab: int) -> Cell:
    """Candidates of a block's slots, and the walk among them, as a drafter of rank 64 has them."""
    logits, gates = mx.random.normal((1, slots, vocab)), mx.random.normal((1, slots, 64))
    tables = (mx.random.normal((vocab, 64)) for _ in range(2))
    anchors = mx.zeros((1,), dtype=mx.int32)

    def selected(top: Callable[..., Candidates], walk: Callable[..., Arrays]) -> Form:
        def run(logits: mx.array, anchors: mx.array, *parts: mx.array) -> mx.array:
            return walk(anchors, top(logits, 16), Rescoring(*parts))[0]

        return run

    forms = {"plain": selected(plain_top, plain_walk)} | _fast(logits, selected(top, walk))
    inputs = (logits, anchors, gates, *tables)
    return Cell("selection", f"{slots} slots, 16 of {vocab}", inputs, forms)


def _fast(logits: mx.array, form: Form) -> dict[str, Form]:
    return {} if native(logits) is None else {"fast": form}


def _tokens(rows: int, width: int) -> mx.array:
    return mx.random.randint(0, 2, (rows, width), dtype=mx.int32)


def _delta(rows: int, width: int, heads: tuple[int, int, int, int]) -> Cell:
    """A layer's outputs and its state after all tokens but two, or after the only one."""

    def upstream(queries: mx.array, *rest: mx.array) -> Arrays:
        *parts, state, kept = rest
        outputs, after = gated_delta_ops(queries, *parts, state)
        if width == 1:
            return outputs, mx.where(kept[:, None, None, None] > 0, after, state)
        mask = mx.arange(width) < kept[:, None]
        return outputs, gated_delta_ops(queries, *parts, state, mask)[1]

    def held(queries: mx.array, *rest: mx.array) -> Arrays:
        *parts, state, kept = rest
        states = DeltaStates(DeltaTokens(*parts), state)
        return states.outputs(queries), states.after(kept)

    forms: dict[str, Callable[..., Any]] = {"mlx-lm": upstream}
    if default_backend() is Backend.PLAIN:
        forms["states held"] = held
    return Cell("gated_delta", _heads(rows, width, heads), _delta_inputs(rows, width, heads), forms)


def _replay(rows: int, width: int, heads: tuple[int, int, int, int]) -> Cell:
    def replay(backend: Backend) -> Callable[..., mx.array]:
        def run(queries: mx.array, *rest: mx.array) -> mx.array:
            *parts, state, kept = rest
            return gated_delta_replay(DeltaTokens(*parts), state, kept, backend)

        return run

    inputs = _delta_inputs(rows, width, heads)
    return Cell("gated_delta_replay", _heads(rows, width, heads), inputs, _by_backend(replay))


def _delta_inputs(rows: int, width: int, heads: tuple[int, int, int, int]) -> Arrays:
    key_heads, value_heads, key_dim, value_dim = heads
    queries, keys = (mx.random.normal((rows, width, key_heads, key_dim)) / 8 for _ in range(2))
    values = mx.random.normal((rows, width, value_heads, value_dim))
    decays, rates = (mx.random.uniform(shape=(rows, width, value_heads)) for _ in range(2))
    state = mx.random.normal((rows, value_heads, value_dim, key_dim))
    kept = mx.full((rows,), max(1, width - 2), dtype=mx.int32)
    return queries, keys, values, decays, rates, state, kept


def _heads(rows: int, width: int, heads: tuple[int, int, int, int]) -> str:
    key_heads, value_heads, key_dim, value_dim = heads
    return f"{rows} rows of {width}, {key_heads}/{value_heads} heads of {key_dim} x {value_dim}"


def _qmm(rows: int, columns: int, inner: int, bits: int) -> Cell:
    x = mx.random.normal((rows, inner)).astype(mx.bfloat16)
    dense = mx.random.normal((columns, inner)).astype(mx.bfloat16)
    words, scales, biases = mx.quantize(dense, group_size=64, bits=bits)

    def multiply(backend: Backend) -> Callable[..., mx.array]:
        def run(x: mx.array, words: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
            return verify_qmm(x, QuantisedWeight(words, scales, biases, 64, bits), backend)

        return run

    shape = f"{rows} x {columns} x {inner}, {bits} bit"
    return Cell("verify_qmm", shape, (x, words, scales, biases), _by_backend(multiply))
