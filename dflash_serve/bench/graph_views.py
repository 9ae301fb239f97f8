"""Primitives that start no kernel on a GPU: their outputs are views of what is there."""

from collections.abc import Callable

from dflash_serve.bench.graph_layout import Ints
from dflash_serve.bench.graph_walk import Node, Tensor

_SAME = frozenset(("Copy", "CustomTransforms", "StopGradient", "NumberOfElements", "View"))


def view_strides(node: Node, strides_of: Callable[[Tensor], Ints]) -> list[Ints] | None:
    """Strides of each output of a node that is a view; None of any other."""
    kind, arguments = node.kind, node.arguments
    if kind not in _SAME and kind not in _VIEWS:
        return None
    source = node.inputs[0]
    strides = strides_of(source)
    if kind in _SAME:
        return [strides for _ in node.outputs]
    if kind == "Split":
        return [strides for _ in node.outputs]
    return [_VIEWS[kind](source.shape, strides, node.outputs[0].shape, arguments)]


def _transposed(shape: Ints, strides: Ints, new: Ints, arguments: tuple[list[int], ...]) -> Ints:
    return tuple(strides[axis] for axis in arguments[0])


def _expanded(shape: Ints, strides: Ints, new: Ints, arguments: tuple[list[int], ...]) -> Ints:
    axes = {axis % len(new) for axis in arguments[0]}
    before = iter(strides)
    return tuple(1 if axis in axes else next(before) for axis in range(len(new)))


def _squeezed(shape: Ints, strides: Ints, new: Ints, arguments: tuple[list[int], ...]) -> Ints:
    axes = {axis % len(shape) for axis in arguments[0]}
    return tuple(stride for axis, stride in enumerate(strides) if axis not in axes)


def _broadcast(shape: Ints, strides: Ints, new: Ints, arguments: tuple[list[int], ...]) -> Ints:
    missing = len(new) - len(shape)
    own = (
        stride if size == wanted else 0
        for size, stride, wanted in zip(shape, strides, new[missing:], strict=True)
    )
    return (0,) * missing + tuple(own)


def _sliced(shape: Ints, strides: Ints, new: Ints, arguments: tuple[list[int], ...]) -> Ints:
    return tuple(stride * step for stride, step in zip(strides, arguments[2], strict=True))


_VIEWS: dict[str, Callable[[Ints, Ints, Ints, tuple[list[int], ...]], Ints]] = {
    "Transpose": _transposed,
    "ExpandDims": _expanded,
    "Squeeze": _squeezed,
    "Broadcast": _broadcast,
    "BroadcastAxes": _broadcast,
    "Slice": _sliced,
    "Split": _transposed,
}
