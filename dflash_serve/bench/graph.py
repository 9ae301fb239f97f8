"""What a round would cost on a GPU: kernels, bytes, operations, host time, and what to expect.

From the shapes of a published pair alone: graphs are built as the engine builds them and walked,
never evaluated. Writes no file.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlx.core as mx
from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.gpu_form import StandIns, gpu_form
from dflash_serve.bench.graph_cost import Cost, costs, total
from dflash_serve.bench.graph_fusion import fused
from dflash_serve.bench.graph_rounds import (
    Bits,
    RoundBuilder,
    RoundKind,
    ShapedPair,
    arrays_of,
    shaped_pair,
)
from dflash_serve.bench.graph_walk import Graph, walk
from dflash_serve.bench.options import GraphOptions
from dflash_serve.bench.report import Columns, Panel, bars, cell, picture, table_of
from dflash_serve.bench.roofline import COMPUTE, LAUNCHES, PARTS, expected
from dflash_serve.bench.shape_configs import SHAPES, Shape
from dflash_serve.bench.simulated import expected_tokens, solve_probability
from dflash_serve.engine.cache.pool import Caches
from dflash_serve.engine.cache.stores import ModelStore
from dflash_serve.measure.results import Result
from dflash_serve.measure.tables import table

SYNCS = 1
"""Times that the host waits for the device in a round whose masks do not depend on the draft."""
PUBLISHED_TAU = {"qwen3-8b": 6.0}
"""Tokens per round: the mean of the ten sets on the drafter's card, greedy, thinking off."""
_BITS = (2, 3, 4, 5, 6, 8, 16)
_TRACED = 3
"""Rounds until the engine traces a shape."""


@dataclass(frozen=True, slots=True)
class RoundGraphs:
    """The graphs of a round and of the writing behind it, operation by operation."""

    round: Graph
    settle: Graph

    def costs(self, vocab: int) -> list[Cost]:
        """Of what the engine runs: the round as it is traced, and the writing as it is."""
        return costs(fused(self.round), vocab) + costs(self.settle, vocab)


def run(options: GraphOptions) -> Result:
    """Every kind of round, and every machine's expected times of the greedy ones.

    Raises:
        BenchError: the shape or its tau is not known, or an operation of its graph.
    """
    if options.shape not in SHAPES:
        raise BenchError(f"--shape {options.shape} is none of: {', '.join(SHAPES)}")
    for name, bits in (("--bits", options.target_bits), ("--drafter-bits", options.drafter_bits)):
        if bits not in _BITS:
            raise BenchError(f"{name} is {bits}, but must be one of {', '.join(map(str, _BITS))}")
    shape = SHAPES[options.shape]
    trained = shape.drafter["block_size"]
    tau = PUBLISHED_TAU.get(options.shape) if options.tau is None else options.tau
    if tau is None:
        raise BenchError(f"no tau is published here for {options.shape}: pass --tau")
    if max(options.blocks, default=0) > trained:
        raise BenchError(f"--block-size is {max(options.blocks)}, the drafter's own is {trained}")
    _check(shape, options)
    acceptance = solve_probability(tau, trained)
    rounds, machines = [], []
    for rows in options.rows:
        kinds = [RoundKind(rows, block, options.context) for block in (1, *options.blocks)]
        measured = [_measure(shape, kind, options) for kind in kinds]
        machines += _machines(measured, acceptance)
        sampled = [replace(kind, sampled=True) for kind in (kinds[0], kinds[-1])]
        measured += [_measure(shape, kind, options) for kind in sampled]
        rounds += [row for row, _ in measured]
    settings = options.recorded() | {"tau": tau, "parts": [asdict(part) for part in PARTS]}
    return Result("graph", settings, {"rounds": rounds, "machines": machines})


def _bits(options: GraphOptions) -> Bits:
    return Bits(options.target_bits, options.drafter_bits)


def _check(shape: Shape, options: GraphOptions) -> None:
    """Refuse layers whose GPU kernels are mlx-lm's own: it makes them where a GPU is.

    Also imports the pair's classes before `gpu_form` exchanges what they might keep.
    """
    pair = shaped_pair(shape, _bits(options), _blank)
    if ModelStore(pair.target.cache_specs).recurs:
        raise BenchError(f"--shape {options.shape} has recurrent layers, which cannot be counted")


def graphs(pair: ShapedPair, kind: RoundKind, stand_ins: StandIns) -> RoundGraphs:
    """The graphs of one round; within `gpu_form` of the same stand-ins."""
    builder = RoundBuilder(pair, stand_ins.leaf)
    rows, caches = builder.inputs(kind), builder.caches(kind)
    left: list[Caches] = []

    def build() -> list[mx.array]:
        verdict, after = builder.round(kind, rows, caches)
        left.append(after)
        return [verdict, *arrays_of(after)]

    during = walk(build, stand_ins)
    held = builder.evaluated(left.pop())
    return RoundGraphs(during, walk(lambda: builder.settle(kind, held), stand_ins))


def _measure(
    shape: Shape, kind: RoundKind, options: GraphOptions
) -> tuple[dict[str, Any], list[Cost]]:
    stand_ins = StandIns()
    with gpu_form(stand_ins):
        pair = shaped_pair(shape, _bits(options), stand_ins.leaf)
        found = graphs(pair, kind, stand_ins)
    vocab = pair.target.vocab_size
    spent = found.costs(vocab)
    all_of_it, before = total(spent), total(costs(found.round, vocab))
    row = {
        **asdict(kind),
        "name": kind.name,
        "weights_bytes": pair.bytes,
        "nodes": len(found.round.nodes),
        "launches_unfused": before.launches,
        "launches_settle": total(costs(found.settle, vocab)).launches,
        "launches": all_of_it.launches,
        "copies": all_of_it.copies,
        "flops": all_of_it.flops,
        "bytes": all_of_it.nbytes,
        "read": dict(all_of_it.reads),
        "written": dict(all_of_it.writes),
        "syncs": SYNCS,
        "host_seconds": _host_seconds(shape, kind, options),
        "kernels": _by_kind(spent),
    }
    return row, spent


def _by_kind(spent: Sequence[Cost]) -> list[dict[str, Any]]:
    """Launches and bytes by kind of node, most launches first."""
    kinds: dict[str, list[Cost]] = {}
    for cost in spent:
        kinds.setdefault(f"{cost.node.kind} {cost.node.label}".strip(), []).append(cost)
    sums = {name: total(own) for name, own in kinds.items()}
    return [
        {
            "kind": name,
            "nodes": len(kinds[name]),
            "launches": one.launches,
            "copies": one.copies,
            "bytes": one.nbytes,
        }
        for name, one in sorted(sums.items(), key=lambda item: -item[1].launches)
    ]


def _host_seconds(shape: Shape, kind: RoundKind, options: GraphOptions) -> dict[str, float]:
    """Seconds of building a round's graphs here, operation by operation and traced."""
    stand_ins = StandIns()
    with gpu_form(stand_ins):
        pair = shaped_pair(shape, _bits(options), _blank)
        timed = {
            name: _timed(RoundBuilder(pair, _blank, traced), kind, options.repeats)
            for name, traced in (("built", False), ("traced", True))
        }
    return timed


def _timed(builder: RoundBuilder, kind: RoundKind, repeats: int) -> float:
    """Least processor time of this thread, which neighbours disturb less than they do the clock."""
    rows, caches = builder.inputs(kind), builder.caches(kind)
    _, after = builder.round(kind, rows, caches)
    held = builder.evaluated(after)
    seconds = []
    for _ in range(_TRACED + repeats):
        started = time.thread_time()
        graph = builder.round(kind, rows, caches), builder.settle(kind, held)
        seconds.append(time.thread_time() - started)
        del graph
    builder.close()
    return min(seconds[_TRACED:])


def _blank(role: str, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """An evaluated array without memory: one number, seen as many."""
    array = mx.broadcast_to(mx.array(0, dtype=dtype), shape)
    mx.eval(array)
    return array


def _machines(
    measured: Sequence[tuple[dict[str, Any], list[Cost]]], acceptance: float
) -> list[dict[str, Any]]:
    """Plain decoding against each block on every machine."""
    (plain, plain_costs), *drafting = measured
    rows = []
    for part in PARTS:
        alone = expected(plain_costs, part, plain["host_seconds"]["traced"])
        for row, spent in drafting:
            both = expected(spent, part, row["host_seconds"]["traced"])
            tau = expected_tokens(acceptance, row["block"])
            rows.append(
                {
                    "part": part.name,
                    "rows": row["rows"],
                    "block": row["block"],
                    "tau": tau,
                    "plain_ms": alone.seconds * 1e3,
                    "plain_bound": alone.bound,
                    "round_ms": both.seconds * 1e3,
                    "round_bound": both.bound,
                    "break_even_tau": both.seconds / alone.seconds,
                    "speedup": tau * alone.seconds / both.seconds,
                    "plain_shares": alone.shares,
                    "round_shares": both.shares,
                }
            )
    return rows


_ROLES = ("weights", "drafter weights", "caches", "activations", "logits", "masks")
_PLOTTED = ("M1", "M2 Max", "M4 Pro", "M4 Max", "M5 Max", "RTX 4090", "H100 SXM")
_MOST_KERNELS = 16


def tables(result: Result) -> list[Table]:
    rounds: list[dict[str, Any]] = result.measured["rounds"]
    title = f"A round of {result.settings['shape']} on a GPU, by its graph (no GPU was used)"
    gigabytes: Columns = [
        *("rows", "name"),
        ("all", lambda row: row["bytes"] / 1e9),
        *((role, _gigabytes(role)) for role in _ROLES),
    ]
    columns: Columns = [
        *("rows", "name", "launches", "launches_unfused", "launches_settle", "copies"),
        ("GFLOP", lambda row: row["flops"] / 1e9),
        *("syncs", "host_seconds.built", "host_seconds.traced"),
    ]
    return [
        table_of(title, rounds, columns),
        table_of("GB read and written", rounds, gigabytes),
        _kernel_table([row for row in rounds if not row["sampled"]]),
        _machine_table(result.measured["machines"]),
    ]


def _gigabytes(role: str) -> Callable[[Any], float]:
    return lambda row: (row["read"].get(role, 0) + row["written"].get(role, 0)) / 1e9


def _kernel_table(rounds: list[dict[str, Any]]) -> Table:
    """Launches by kind of kernel, a column for each round."""
    kinds: dict[str, dict[str, int]] = {}
    for row in rounds:
        for one in row["kernels"]:
            kinds.setdefault(one["kind"], {})[f"{row['rows']}, {row['name']}"] = one["launches"]
    most = sorted(kinds.items(), key=lambda item: -max(item[1].values()))[:_MOST_KERNELS]
    names = [f"{row['rows']}, {row['name']}" for row in rounds]
    rows = [(kind, *(counts.get(name, 0) for name in names)) for kind, counts in most]
    return table("Launches by kind", ("kernel", *names), rows)


def _machine_table(found: list[dict[str, Any]]) -> Table:
    """Plain decoding, and what each block makes of it."""
    machines: dict[str, dict[str, object]] = {}
    for row in found:
        name = f"{row['part']}, {row['rows']}"
        plain = {"plain ms": row["plain_ms"], "bound by": row["plain_bound"]}
        cells = machines.setdefault(name, {"machine, rows": name, **plain})
        faster = f"{row['speedup']:.2f} {row['round_bound']}"
        cells[f"block {row['block']}, tau {row['tau']:.2g}"] = faster
    title = "Expected times faster than plain decoding by kernels alone, and what takes the most"
    columns = list(next(iter(machines.values()), {}))
    rows = [list(cells.values()) for cells in machines.values()]
    return table(title, columns, rows, shown=cell)


def plot(result: Result) -> Figure:
    """What takes a round's time on some machines, plain decoding beside the widest block."""
    found: list[dict[str, Any]] = result.measured["machines"]
    widest = max((row["block"] for row in found), default=0)

    def field(rows: int) -> Panel:
        own = [
            {
                "name": f"{row['part']}, {name}: {row[f'{key}_ms']:.3g} ms",
                "ms": row[f"{key}_ms"],
                "seconds": row[f"{key}_shares"],
            }
            for row in found
            if row["rows"] == rows and row["block"] == widest and row["part"] in _PLOTTED
            for name, key in (("plain", "plain"), (f"block {widest}", "round"))
        ]
        shares = [(name, _share(name)) for name in (*_ROLES, COMPUTE, LAUNCHES)]
        return bars(f"rows: {rows}, shares of a round", own, "name", shares, stacked=True)

    return picture(*map(field, dict.fromkeys(row["rows"] for row in found)), height=5)


def _share(name: str) -> Callable[[Any], float]:
    return lambda one: 1e3 * float(one["seconds"].get(name, 0.0)) / float(one["ms"])
