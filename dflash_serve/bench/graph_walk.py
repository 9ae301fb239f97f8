"""A lazy MLX graph as plain nodes, in the order in which MLX would run it. Evaluates nothing."""

import math
from collections.abc import Callable, Mapping, Sequence
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
    pieces: list[dict[str, Any]] = []
    mx.disable_compile()
    try:
        mx.export_function(pieces.append, lambda: list(build()))
    finally:
        mx.enable_compile()
    rest = {piece["type"]: piece for piece in pieces if piece["type"] != "primitive"}
    constants = rest["constants"]["constants"]  # the stand-ins' numbers among them
    numbers = {name: array.item() for name, array in constants if _is_number(array)}
    primitives = [piece for piece in pieces if piece["type"] == "primitive"]
    nodes = [_node(piece, stand_ins, numbers) for piece in primitives]
    return Graph(
        tuple(node for node in nodes if node.kind != LEAF),
        frozenset(name for name, _, _ in rest["outputs"]["outputs"]),
        {node.outputs[0].name: node.label for node in nodes if node.kind == LEAF},
    )


def _is_number(array: mx.array) -> bool:
    return array.dtype == mx.int32 and array.ndim == 0


def _node(piece: dict[str, Any], stand_ins: StandIns, numbers: Mapping[str, int]) -> Node:
    """Of a piece that is a primitive; what it stands for, if it is a stand-in."""
    inputs, outputs = (
        tuple(Tensor(name, tuple(shape), dtype) for name, shape, dtype in piece[side])
        for side in ("inputs", "outputs")
    )
    if piece["name"] != "Depends":
        return Node(piece["name"], inputs, outputs, tuple(piece["arguments"]))
    number, *behind = inputs[len(outputs) :]
    stand_in = stand_ins.made[numbers[number.name]]
    return Node(stand_in.kind, tuple(behind), outputs, label=stand_in.label)
