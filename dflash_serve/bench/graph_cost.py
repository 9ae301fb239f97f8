"""What a graph costs on a GPU: kernels, bytes and floating-point operations, node by node.

By the rules of MLX 0.32's Metal back end (mlx/backend/gpu, mlx/backend/metal): which primitives
only view an array, which start a kernel or several, and which must copy what they read first.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.graph_fusion import ELEMENTWISE, FUSED
from dflash_serve.bench.graph_layout import (
    distinct,
    is_dense,
    is_row_major,
    laid,
    reshaped,
    views,
)
from dflash_serve.bench.graph_walk import Graph, Node, Tensor

LOGITS, ACTIVATIONS, MASKS = "logits", "activations", "masks"
_QMV_ROWS = 12
"""Rows up to which a quantised product of large matrices runs as matrix times vectors (M3 on)."""
_QMM_TILE, _QMM_GROUPS = 32, 512
"""Rows and columns of a tile, and tiles that a quantised product wants at least: it splits K."""
_SORTED = 2048
"""Elements of an axis that one kernel sorts."""
_LONG_KEYS = 4096
"""Keys from which attention of few queries runs in two kernels where heads share keys."""
_SHORT_QUERIES = 8


@dataclass(slots=True)
class Cost:
    """The kernels of one node. ``reads``, ``writes``: bytes by role.

    ``copies``: kernels of ``launches`` that only bring an array into order, or into a new buffer.
    """

    node: Node
    launches: int = 1
    copies: int = 0
    flops: int = 0
    reads: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)

    @property
    def nbytes(self) -> int:
        return self.reads.total() + self.writes.total()


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of `Cost`."""

    launches: int
    copies: int
    flops: int
    reads: Counter[str]
    writes: Counter[str]

    @property
    def nbytes(self) -> int:
        return self.reads.total() + self.writes.total()


def costs(graph: Graph, vocab: int) -> list[Cost]:
    """The nodes that start kernels, with their cost. ``vocab``: rows of that size are logits.

    Raises:
        BenchError: a primitive whose rule is not known.
    """
    return _Costs(graph, vocab).run()


class _Costs:
    """Walks a graph once. Owner of every array's layout and role."""

    def __init__(self, graph: Graph, vocab: int) -> None:
        self._graph = graph
        self._vocab = vocab
        self._arrays: dict[str, np.ndarray] = {}
        self._roles = dict(graph.leaves)
        self._uses = Counter(tensor.name for node in graph.nodes for tensor in node.inputs)
        self._rules: dict[str, Callable[[Node, Cost], np.ndarray | None]] = {
            FUSED: self._elementwise,
            **dict.fromkeys(ELEMENTWISE, self._elementwise),
            **dict.fromkeys(_PLAIN, self._plain),
            **dict.fromkeys(("Sort", "ArgSort", "Partition", "ArgPartition"), self._sort),
            **dict.fromkeys(("Gather", "GatherAxis"), self._gather),
            **dict.fromkeys(("Reshape", "Flatten", "Unflatten"), self._reshape),
            **dict.fromkeys(("Scatter", "ScatterAxis"), self._scatter),
            **dict.fromkeys(("Matmul", "AddMM"), self._matmul),
            "Concatenate": self._concatenate,
            "Contiguous": self._contiguous,
            "Pad": self._pad,
            "SliceUpdate": self._slice_update,
            "DynamicSliceUpdate": self._slice_update,
            "DynamicSlice": self._dynamic_slice,
            "QuantizedMatmul": self._quantised,
            "RMSNorm": self._norm,
            "RoPE": self._rope,
            "ScaledDotProductAttention": self._attention,
        }

    def run(self) -> list[Cost]:
        nodes = (node for node in self._graph.nodes if any(out.size for out in node.outputs))
        found = [self._cost(node) for node in nodes]
        return [cost for cost in found if cost is not None and cost.launches]

    def _cost(self, node: Node) -> Cost | None:
        if (made := views(node, self._of)) is not None:
            for out, own in zip(node.outputs, made, strict=True):
                self._arrays[out.name] = own
                self._roles[out.name] = self._role(node.inputs[0])
            return None
        if node.kind not in self._rules:
            raise BenchError(f"the cost of MLX's operation {node.kind} on a GPU is not known here")
        cost = Cost(node)
        array = self._rules[node.kind](node, cost)
        if array is not None:
            self._arrays[node.outputs[0].name] = array
        return cost

    def _of(self, tensor: Tensor) -> np.ndarray:
        known = self._arrays.get(tensor.name)
        return laid(tensor.shape) if known is None else known

    def _role(self, tensor: Tensor) -> str:
        if tensor.name in self._roles:
            return self._roles[tensor.name]
        if tensor.dtype == mx.bool_:
            return MASKS
        return LOGITS if tensor.shape and tensor.shape[-1] == self._vocab else ACTIVATIONS

    def _read(self, cost: Cost, *tensors: Tensor) -> None:
        for tensor in tensors:
            cost.reads[self._role(tensor)] += distinct(self._of(tensor)) * int(tensor.dtype.size)

    def _write(self, cost: Cost, *tensors: Tensor) -> None:
        for tensor in tensors:
            cost.writes[self._role(tensor)] += tensor.nbytes

    def _copied(self, cost: Cost, tensor: Tensor) -> None:
        """A kernel that brings ``tensor`` into order before it is read."""
        self._read(cost, tensor)
        self._write(cost, tensor)
        cost.launches += 1
        cost.copies += 1

    def _plain(self, node: Node, cost: Cost) -> None:
        """One kernel that reads its inputs and writes its outputs."""
        self._read(cost, *node.inputs)
        self._write(cost, *node.outputs)

    def _elementwise(self, node: Node, cost: Cost) -> np.ndarray | None:
        self._plain(node, cost)
        large = [one for one in node.inputs if one.size > 1]
        if len(large) == 1 and is_dense(self._of(large[0])):
            return self._of(large[0]) if large[0].shape == node.outputs[0].shape else None
        return None

    def _sort(self, node: Node, cost: Cost) -> None:
        """Blocks that are sorted and then merged two by two, two kernels each time."""
        self._plain(node, cost)
        blocks = -(-node.inputs[0].shape[-1] // _SORTED)
        turns = math.ceil(math.log2(blocks)) if blocks > 1 else 0
        cost.launches += 2 * turns + (2 if turns else 0)
        for _ in range(turns):
            self._read(cost, *node.inputs)
            self._write(cost, *node.outputs)

    def _gather(self, node: Node, cost: Cost) -> None:
        """Reads what it takes, not the whole table."""
        table, *indices = node.inputs
        cost.reads[self._role(table)] += node.outputs[0].nbytes
        self._read(cost, *indices)
        self._write(cost, *node.outputs)

    def _reshape(self, node: Node, cost: Cost) -> np.ndarray | None:
        """A copy where the new shape is no view."""
        (before,), (after,) = node.inputs, node.outputs
        array = reshaped(self._of(before), after.shape)
        if after.size == 0 or array is not None:
            cost.launches = 0
            self._roles[after.name] = self._role(before)
            return array
        self._plain(node, cost)
        cost.copies = 1
        return None

    def _contiguous(self, node: Node, cost: Cost) -> None:
        before = node.inputs[0]
        if is_row_major(self._of(before)):
            cost.launches = 0
            self._roles[node.outputs[0].name] = self._role(before)
        else:
            self._plain(node, cost)
            cost.copies = 1

    def _concatenate(self, node: Node, cost: Cost) -> None:
        """A kernel for each part."""
        self._plain(node, cost)
        cost.launches = sum(one.size > 0 for one in node.inputs)

    def _pad(self, node: Node, cost: Cost) -> None:
        """Fills all, then copies the inside."""
        self._plain(node, cost)
        self._write(cost, node.inputs[0])
        cost.launches = 2

    def _scatter(self, node: Node, cost: Cost) -> np.ndarray:
        return self._updated(node, cost, node.inputs[-1] if node.kind == "Scatter" else None)

    def _slice_update(self, node: Node, cost: Cost) -> np.ndarray:
        """A start on the device takes a kernel that computes the place."""
        cost.launches = 1 if node.kind == "SliceUpdate" else 2
        return self._updated(node, cost, node.inputs[1])

    def _updated(self, node: Node, cost: Cost, update: Tensor | None) -> np.ndarray:
        """Writes the update alone, where nothing else holds the array that it goes into."""
        old, *new = node.inputs
        update = update or node.inputs[2]
        self._roles[node.outputs[0].name] = self._role(old)
        if self._uses[old.name] > 1 or old.name in self._graph.outputs:
            self._copied(cost, old)
        self._read(cost, *new)
        cost.writes[self._role(old)] += update.nbytes
        return self._of(old)

    def _dynamic_slice(self, node: Node, cost: Cost) -> None:
        cost.launches = 2
        self._gather(node, cost)

    def _matmul(self, node: Node, cost: Cost) -> None:
        for one in node.inputs[:2]:
            if one.size > 1 and 1 not in self._of(one).strides[-2:]:
                self._copied(cost, one)
        self._plain(node, cost)
        cost.flops = 2 * node.outputs[0].size * node.inputs[0].shape[-1]

    def _quantised(self, node: Node, cost: Cost) -> None:
        """Few output columns are added up in parts of K, by a second kernel."""
        x, out = node.inputs[0], node.outputs[0]
        if not is_row_major(self._of(x)):
            self._copied(cost, x)
        self._plain(node, cost)
        inner, columns = x.shape[-1], out.shape[-1]
        rows = x.size // inner
        cost.flops = 2 * rows * inner * columns
        tiles = -(-columns // _QMM_TILE) * -(-rows // _QMM_TILE)
        parts = min(_QMM_GROUPS // tiles, inner // _QMM_TILE)
        if rows > _QMV_ROWS and parts > 1:
            cost.launches += 1
            cost.reads[ACTIVATIONS] += parts * out.nbytes
            cost.writes[ACTIVATIONS] += parts * out.nbytes

    def _norm(self, node: Node, cost: Cost) -> np.ndarray | None:
        x, array = node.inputs[0], self._of(node.inputs[0])
        strides = array.strides
        in_rows = len(strides) < 2 or x.shape[-2] == 1 or strides[-2] in (0, x.shape[-1])
        ordered = is_dense(array) and strides[-1] == 1 and in_rows
        if not ordered:
            self._copied(cost, x)
        self._plain(node, cost)
        return array if ordered else None

    def _rope(self, node: Node, cost: Cost) -> None:
        """Heads and tokens may have changed places; other orders and parts of heads are copied."""
        x, array = node.inputs[0], self._of(node.inputs[0])
        strides, in_order = array.strides, is_row_major(array)
        if len(x.shape) == 4 and not in_order:
            rows, heads, width, dim = x.shape
            swapped = strides[1] == dim and strides[2] == heads * dim
            in_order = rows == heads == 1 or (
                swapped and (rows == 1 or strides[0] == width * heads * dim)
            )
        if node.label == "part" or not in_order:
            self._copied(cost, x)
        self._plain(node, cost)

    def _attention(self, node: Node, cost: Cost) -> np.ndarray | None:
        queries, keys = node.inputs[:2]
        rows, heads, width, dim = queries.shape
        for one in node.inputs:
            if one.shape and self._of(one).strides[-1] != 1 and one.shape[-1] > 1:
                self._copied(cost, one)
        self._plain(node, cost)
        length = keys.shape[2]
        cost.flops = 4 * rows * heads * width * length * dim
        if width > _SHORT_QUERIES:
            return laid((rows, width, heads, dim)).transpose(0, 2, 1, 3)
        if length >= _LONG_KEYS and keys.shape[1] < heads:
            cost.launches += 1
        return None


_PLAIN = (
    "Arange",
    "ArgReduce",
    "CustomKernel",
    "Dequantize",
    "Full",
    "LogSumExp",
    "RandomBits",
    "Reduce",
    "Scan",
    "Softmax",
)


def total(found: Sequence[Cost]) -> Totals:
    """All of a graph, or of several together."""
    return Totals(
        launches=sum(one.launches for one in found),
        copies=sum(one.copies for one in found),
        flops=sum(one.flops for one in found),
        reads=sum((one.reads for one in found), Counter()),
        writes=sum((one.writes for one in found), Counter()),
    )
