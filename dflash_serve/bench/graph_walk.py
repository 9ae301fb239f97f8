"""A lazy MLX graph as plain nodes, in the order in which MLX would run it. Evaluates nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from dflash_serve.bench.gpu_form import LEAF, StandIns


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array of a graph. Names are unique in it."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * int(self.dtype.size)


@dataclass(frozen=True, slots=True)
class Node:
    """An operation: MLX's primitive, or a stand-in's kind. ``arguments`` as MLX exports them."""

    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    arguments: tuple[Any, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which each comes after its inputs. ``leaves``: roles by name.

    ``outputs``: the names of what is evaluated.
    """

    nodes: tuple[Node, ...]
    outputs: frozenset[str]
    leaves: dict[str, str]


def walk(build: Callable[[], Sequence[mx.array]], stand_ins: StandIns) -> Graph:
    """The graph of what ``build`` returns, after MLX's own removal of what is there twice.

    Nothing is compiled meanwhile: what MLX would fuse, `graph_fusion` says.
    """
    collected = _Collected(stand_ins)
    mx.disable_compile()
    try:
        mx.export_function(collected.take, lambda: list(build()))
    finally:
        mx.enable_compile()
    return Graph(tuple(collected.nodes), frozenset(collected.outputs), collected.leaves)


class _Collected:
    """What MLX's export says piece by piece."""

    def __init__(self, stand_ins: StandIns) -> None:
        self.nodes: list[Node] = []
        self.outputs: set[str] = set()
        self.leaves: dict[str, str] = {}
        self._stand_ins = stand_ins
        self._numbers: dict[str, int] = {}

    def take(self, piece: dict[str, Any]) -> None:
        match piece["type"]:
            case "outputs":
                self.outputs = {name for name, _, _ in piece["outputs"]}
            case "constants":
                self._numbers = {
                    name: array.item()
                    for name, array in piece["constants"]
                    if array.dtype == mx.int32 and array.ndim == 0
                }
            case "primitive":
                self._take_node(piece)

    def _take_node(self, piece: dict[str, Any]) -> None:
        inputs, outputs = (
            tuple(Tensor(name, tuple(shape), dtype) for name, shape, dtype in piece[side])
            for side in ("inputs", "outputs")
        )
        if piece["name"] != "Depends":
            self.nodes.append(Node(piece["name"], inputs, outputs, tuple(piece["arguments"])))
            return
        number, *behind = inputs[len(outputs) :]
        stand_in = self._stand_ins.made[self._numbers[number.name]]
        if stand_in.kind == LEAF:
            self.leaves[outputs[0].name] = stand_in.label
        else:
            node = Node(stand_in.kind, tuple(behind), outputs, label=stand_in.label)
            self.nodes.append(node)
