"""Which operations of a traced graph become one kernel: the rule of MLX's `mx.compile`.

Elementwise operations that nothing outside needs are taken into the one that uses them, from the
last operation backwards. Written after `compile_fuse` of MLX 0.32 (mlx/compile.cpp) and compared
with the fused graphs that MLX itself builds (tests/bench/test_graph_fusion.py).
"""

from dataclasses import dataclass, field

from dflash_serve.bench.graph_walk import Graph, Node, Tensor

FUSED = "Compiled"
_DEEPEST = 11
_MOST_INPUTS = 24
_UNARY = """
    Abs ArcCos ArcCosh ArcSin ArcSinh ArcTan ArcTanh AsType BitwiseInvert Ceil Conjugate Cos Cosh
    Erf ErfInv Exp Expm1 Floor Imag Log Log1p LogicalNot Negative Real Remainder Round Sigmoid Sign
    Sin Sinh Sqrt Square Tan Tanh
"""
_BINARY = """
    Add ArcTan2 BitwiseBinary Divide Equal Greater GreaterEqual Less LessEqual LogAddExp LogicalAnd
    LogicalOr Maximum Minimum Multiply NotEqual Power Subtract
"""
ELEMENTWISE = frozenset([*_UNARY.split(), *_BINARY.split(), "Select"])
_FUSABLE = ELEMENTWISE | {"Broadcast"}


def fused(graph: Graph) -> Graph:
    """The graph with one node for each kernel that `mx.compile` would make of several."""
    return _Fusion(graph).run()


@dataclass(slots=True)
class _Group:
    """Operations around a last one, in the making. ``taken``: places in the graph."""

    shape: tuple[int, ...]
    taken: set[int] = field(default_factory=set)
    split: set[int] = field(default_factory=set)
    inputs: set[str] = field(default_factory=set)


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes = graph.nodes
        self._maker = {out.name: at for at, node in enumerate(graph.nodes) for out in node.outputs}
        self._users: dict[str, set[int]] = {}
        for at, node in enumerate(graph.nodes):
            for tensor in node.inputs:
                self._users.setdefault(tensor.name, set()).add(at)

    def run(self) -> Graph:
        done: set[int] = set()
        made: list[Node] = []
        for at in reversed(range(len(self._nodes))):
            node = self._nodes[at]
            if at in done or self._unused(node):
                continue
            group = _Group(node.outputs[0].shape)
            if node.kind != "Broadcast":
                self._grow(group, node.outputs[0], 0)
            if len(group.taken | group.split) <= 1:
                made.append(node)
                continue
            done |= group.taken
            made.append(self._together(at, group))
        return Graph(tuple(reversed(made)), self._graph.outputs, self._graph.leaves)

    def _unused(self, node: Node) -> bool:
        """Whether a broadcast went into all the groups that used it."""
        names = [out.name for out in node.outputs]
        return not any(name in self._graph.outputs or self._users.get(name) for name in names)

    def _grow(self, group: _Group, tensor: Tensor, depth: int) -> None:
        """Take what makes ``tensor`` into the group, and what makes that one's inputs."""
        at = self._maker.get(tensor.name)
        if at is not None and at in group.taken | group.split:
            return
        if at is None or depth >= _DEEPEST or not self._may_enter(group, self._nodes[at]):
            group.inputs.add(tensor.name)
            return
        node = self._nodes[at]
        users = self._users.get(tensor.name, set())
        if depth > 0 and not users <= group.taken | group.split:
            if node.kind != "Broadcast" or len(group.inputs) >= _MOST_INPUTS:
                group.inputs.add(tensor.name)
                return
            group.split.add(at)
        group.inputs.discard(tensor.name)
        if tensor.name in self._graph.outputs:
            group.inputs.add(tensor.name)
        if len(group.inputs) >= _MOST_INPUTS:
            group.split.discard(at)
            return
        if at not in group.split:
            group.taken.add(at)
        for before in node.inputs:
            self._grow(group, before, depth + 1)

    def _may_enter(self, group: _Group, node: Node) -> bool:
        output = node.outputs[0]
        foreign = output.name in self._graph.outputs and output.shape != group.shape
        return node.kind in _FUSABLE and not foreign

    def _together(self, last: int, group: _Group) -> Node:
        """One node for the group; uses of its inputs are uses by its last operation from now on."""
        members = sorted(group.taken | group.split)
        inside = {self._nodes[at].outputs[0].name for at in members}
        inputs: dict[str, Tensor] = {}
        for at in members:
            for tensor in self._nodes[at].inputs:
                if tensor.name not in inside:
                    inputs[tensor.name] = tensor
                self._users[tensor.name] -= group.taken
        for name in inputs:
            self._users[name].add(last)
        for at in group.split:
            self._users[self._nodes[at].outputs[0].name] -= group.taken
        outputs = [self._nodes[at].outputs[0] for at in sorted(group.taken)]
        kept = tuple(out for out in outputs if out.name in self._graph.outputs and out.size)
        own = self._nodes[last].outputs[0]
        others = tuple(out for out in kept if out.name != own.name)
        label = "+".join(
            self._nodes[at].kind for at in members if self._nodes[at].kind != "Broadcast"
        )
        return Node(FUSED, tuple(inputs.values()), (*others, own), label=label)
