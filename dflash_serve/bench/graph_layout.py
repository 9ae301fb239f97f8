"""How arrays of a graph lie: numpy's own views of arrays without memory, a byte for each element.

A kernel's result lies row by row unless its rule says otherwise.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from dflash_serve.bench.graph_walk import Node, Tensor

_SAME = frozenset(("Copy", "CustomTransforms", "Split", "StopGradient", "View"))
_VIEWS: dict[str, Callable[[np.ndarray, tuple[int, ...], tuple[Any, ...]], np.ndarray]] = {
    "Transpose": lambda array, _, arguments: array.transpose(arguments[0]),
    "ExpandDims": lambda array, _, arguments: np.expand_dims(array, tuple(arguments[0])),
    "Squeeze": lambda array, _, arguments: np.squeeze(array, tuple(arguments[0])),
    "Broadcast": lambda array, shape, _: np.broadcast_to(array, shape),
    "BroadcastAxes": lambda array, shape, _: np.broadcast_to(array, shape),
    "Slice": lambda array, shape, arguments: as_strided(
        array, shape, [own * step for own, step in zip(array.strides, arguments[2], strict=True)]
    ),
}


def laid(shape: Sequence[int]) -> np.ndarray:
    """An array that lies row by row."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return as_strided(np.empty(1, np.int8), shape, strides)


def is_row_major(array: np.ndarray) -> bool:
    """Whether it lies row by row; axes of size 1 may have any stride."""
    return bool(array.flags.c_contiguous)


def is_dense(array: np.ndarray) -> bool:
    """Whether it fills its memory without gaps, in any order of axes."""
    return is_row_major(array.transpose(np.argsort(array.strides)[::-1]))


def distinct(array: np.ndarray) -> int:
    """Elements that are there: a broadcast axis counts once."""
    return math.prod(n for n, stride in zip(array.shape, array.strides, strict=True) if stride)


def reshaped(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """The same elements in another shape; None if they must be copied for it."""
    try:
        return array.reshape(shape, copy=False)
    except ValueError:
        return None


def views(node: Node, array_of: Callable[[Tensor], np.ndarray]) -> list[np.ndarray] | None:
    """Each output of a node that is a view; None of any other."""
    if node.kind in _SAME:
        array = array_of(node.inputs[0])
        return [as_strided(array, out.shape, array.strides) for out in node.outputs]
    if node.kind not in _VIEWS:
        return None
    view = _VIEWS[node.kind]
    return [view(array_of(node.inputs[0]), node.outputs[0].shape, node.arguments)]
