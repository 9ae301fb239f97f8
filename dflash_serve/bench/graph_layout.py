"""Strides of arrays in a graph: what is a view, and what must be copied to be read in order.

In elements, not bytes. A kernel's result lies row by row unless its rule says otherwise.
"""

import math
from collections.abc import Sequence

Ints = tuple[int, ...]


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
