"""Strides of arrays in a graph: what is a view, and what must be copied to be read in order.

In elements, not bytes. A kernel's result lies row by row unless its rule says otherwise.
"""

import math
from collections.abc import Callable, Sequence

from dflash_serve.bench.graph_walk import Node, Tensor

Ints = tuple[int, ...]
_SAME = frozenset(("Copy", "CustomTransforms", "StopGradient", "NumberOfElements", "View"))


def row_major(shape: Sequence[int]) -> Ints:
    """Strides of an array that lies row by row."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides)) if shape else ()


def is_row_major(shape: Ints, strides: Ints) -> bool:
    """Whether it lies row by row; axes of size 1 may have any stride."""
    wanted = row_major(shape)
    return all(size == 1 or a == b for size, a, b in zip(shape, strides, wanted, strict=True))


def is_dense(shape: Ints, strides: Ints) -> bool:
    """Whether it fills its memory without gaps, in any order of axes."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def distinct(shape: Ints, strides: Ints) -> int:
    """Elements that are there: a broadcast axis counts once."""
    return math.prod(size for size, stride in zip(shape, strides, strict=True) if stride)


def reshaped(shape: Ints, strides: Ints, new: Ints) -> Ints | None:
    """Strides of the same elements in another shape; None if they must be copied for it."""
    groups = _groups(shape, strides)
    made: list[int] = []
    size, stride = groups.pop() if groups else (1, 1)
    for wanted in reversed(new):
        if wanted != 1 and size == 1 and groups:
            size, stride = groups.pop()
        if wanted == 1:
            made.append(stride)
            continue
        if size % wanted:
            return None
        made.append(stride)
        size, stride = size // wanted, stride * wanted
    return tuple(reversed(made))


def _groups(shape: Ints, strides: Ints) -> list[tuple[int, int]]:
    """(size, stride) of axes, those joined that follow each other in memory."""
    groups: list[tuple[int, int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if groups and groups[-1][1] == stride * size:
            groups[-1] = groups[-1][0] * size, stride
        else:
            groups.append((size, stride))
    return groups


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
