"""What a round would cost on a GPU: kernels, bytes, operations, host time, and what to expect.

From the shapes of a published pair alone: graphs are built as the engine builds them and walked,
never evaluated. Writes no file.
"""

import time
from collections.abc import Sequence
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
from dflash_serve.bench.report import table, table_of
from dflash_serve.bench.roofline import COMPUTE, LAUNCHES, PARTS, expected
from dflash_serve.bench.shape_configs import SHAPES, Shape
from dflash_serve.bench.simulated import expected_tokens, solve_probability
from dflash_serve.engine.cache.pool import Caches
from dflash_serve.engine.cache.stores import ModelStore
from dflash_serve.measure.results import Result

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
        known = ", ".join(SHAPES)
        raise BenchError(f"--shape {options.shape} is none of: {known}")
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
        _kernel_table([row for row in rounds if not row["sampled"]]),
        _machine_table(result),
    ]


def _bytes(row: dict[str, Any]) -> tuple[object, ...]:
    roles = (row["read"].get(role, 0) + row["written"].get(role, 0) for role in _ROLES)
    return _name(row), row["bytes"] / 1e9, *(one / 1e9 for one in roles)


def _kernel_table(rounds: list[dict[str, Any]]) -> Table:
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


def _machine_table(result: Result) -> Table:
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
