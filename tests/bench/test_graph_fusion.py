"""Which operations become one kernel: compared with the graphs that MLX itself fuses."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from dflash_serve.bench.gpu_form import StandIn, StandIns
from dflash_serve.bench.graph_fusion import FUSED, fused
from dflash_serve.bench.graph_walk import walk

Function = Callable[[StandIns, mx.array, mx.array], list[mx.array]]


def other(stand_ins: StandIns, x: mx.array) -> mx.array:
    """An operation that nothing is fused into."""
    return stand_ins.like(StandIn("RMSNorm"), x)


def chain(stand_ins: StandIns, x: mx.array, y: mx.array) -> list[mx.array]:
    return [mx.exp(x * 2 + y) * nn.silu(y)]


def apart(stand_ins: StandIns, x: mx.array, y: mx.array) -> list[mx.array]:
    total = x + y
    return [mx.exp(other(stand_ins, total)) + total]


def used_outside(stand_ins: StandIns, x: mx.array, y: mx.array) -> list[mx.array]:
    part = mx.sigmoid(x + y)
    return [part * 2, other(stand_ins, part), mx.argmax(part - y, axis=-1)]


def shapes(stand_ins: StandIns, x: mx.array, y: mx.array) -> list[mx.array]:
    row = mx.exp(y[:1]) + 1
    return [mx.where(x > row, x, row), row]


def shared_scalar(stand_ins: StandIns, x: mx.array, y: mx.array) -> list[mx.array]:
    scale = mx.array(3.0)
    return [other(stand_ins, x * scale) * scale, mx.abs(y * scale)]


def long_chain(stand_ins: StandIns, x: mx.array, y: mx.array) -> list[mx.array]:
    for _ in range(30):
        x = mx.sin(x) + y
    return [x]


def many_inputs(stand_ins: StandIns, x: mx.array, y: mx.array) -> list[mx.array]:
    total = x
    for _ in range(30):
        total = total * other(stand_ins, x)
    wide = [other(stand_ins, y) for _ in range(32)]
    while len(wide) > 1:
        wide = [a + b for a, b in zip(wide[::2], wide[1::2], strict=True)]
    return [total, wide[0]]


@pytest.mark.parametrize(
    "function", [chain, apart, used_outside, shapes, shared_scalar, long_chain, many_inputs]
)
def test_kernels_are_those_of_mlx(function: Function, tmp_path: Path) -> None:
    stand_ins = StandIns()
    x, y = (stand_ins.leaf("inputs", (4, 8), mx.float32) for _ in range(2))
    ours = fused(walk(lambda: function(stand_ins, x, y), stand_ins))
    theirs = mx.compile(lambda x, y: function(stand_ins, x, y))(x, y)
    mx.export_to_dot(str(tmp_path / "graph.dot"), *theirs)
    labels = re.findall(r'label ="(\w+)"', (tmp_path / "graph.dot").read_text())
    expected = Counter(
        label.removeprefix(FUSED).replace("Broadcast", "")
        for label in labels
        if label.startswith(FUSED)
    )
    found = Counter(node.label.replace("+", "") for node in ours.nodes if node.kind == FUSED)
    assert found.keys() == expected.keys()
    assert found == expected


def test_a_kernel_reads_what_comes_from_outside_and_writes_what_is_needed() -> None:
    stand_ins = StandIns()
    x, y = (stand_ins.leaf("inputs", (4, 8), mx.float32) for _ in range(2))
    found = fused(walk(lambda: used_outside(stand_ins, x, y), stand_ins))
    made = {out.name for node in found.nodes for out in node.outputs}
    missing = {
        one.name
        for node in found.nodes
        for one in node.inputs
        if one.name not in made and one.shape
    }
    assert missing == set(found.leaves)
