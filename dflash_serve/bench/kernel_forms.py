"""Times the forms of each small kernel against each other: plain, fast, and MLX's own.

In this process, on the default device; forms of other devices do not appear. Every form is traced
by ``mx.compile``, as in the engine. Knows shapes only; writes no file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import mlx.core as mx
from mlx_lm.models.gated_delta import gated_delta_ops

from dflash_serve.bench.turns import timed
from dflash_serve.kernels.acceptance_scan import acceptance_scan
from dflash_serve.kernels.dispatch import Backend, default_backend, kernel_backend
from dflash_serve.kernels.gated_delta import DeltaStates, DeltaTokens
from dflash_serve.kernels.gated_delta_replay import gated_delta_replay
from dflash_serve.kernels.native import native
from dflash_serve.kernels.token_choice import Draw, token_choice
from dflash_serve.kernels.tree_scan import tree_scan
from dflash_serve.kernels.verify_qmm import QuantisedWeight, verify_qmm

_CELL_SECONDS = 1.0  # a slow form is repeated less often, but thrice at least

Arrays = tuple[mx.array, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One kernel at one shape: what it takes, and its forms; the first is what others beat."""

    kernel: str
    shape: str
    inputs: Arrays
    forms: dict[str, Callable[..., Any]]


def run_forms(repeats: int, vocab: int = 151_936) -> list[dict[str, Any]]:
    """One row per form: milliseconds, and how many times faster than the cell's first form.

    Tokens are chosen out of ``vocab``.
    """
    rows: list[dict[str, Any]] = []
    for cell in _cells(vocab):
        walls = _time(cell, repeats)
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


def _time(cell: Cell, repeats: int) -> dict[str, list[float]]:
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
    forms: dict[str, Callable[..., Any]] = {"plain": partial(token_choice, backend=Backend.PLAIN)}
    if native(logits) is not None:
        forms["fast"] = token_choice
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
    return Cell("gated_delta", _shape(rows, width, heads), _delta_inputs(rows, width, heads), forms)


def _replay(rows: int, width: int, heads: tuple[int, int, int, int]) -> Cell:
    def replay(backend: Backend) -> Callable[..., mx.array]:
        def run(queries: mx.array, *rest: mx.array) -> mx.array:
            *parts, state, kept = rest
            return gated_delta_replay(DeltaTokens(*parts), state, kept, backend)

        return run

    inputs = _delta_inputs(rows, width, heads)
    return Cell("gated_delta_replay", _shape(rows, width, heads), inputs, _by_backend(replay))


def _delta_inputs(rows: int, width: int, heads: tuple[int, int, int, int]) -> Arrays:
    key_heads, value_heads, key_dim, value_dim = heads
    queries, keys = (mx.random.normal((rows, width, key_heads, key_dim)) / 8 for _ in range(2))
    values = mx.random.normal((rows, width, value_heads, value_dim))
    decays, rates = (mx.random.uniform(shape=(rows, width, value_heads)) for _ in range(2))
    state = mx.random.normal((rows, value_heads, value_dim, key_dim))
    kept = mx.full((rows,), max(1, width - 2), dtype=mx.int32)
    return queries, keys, values, decays, rates, state, kept


def _shape(rows: int, width: int, heads: tuple[int, int, int, int]) -> str:
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
