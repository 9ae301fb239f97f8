"""Columns of a forward that do not follow one another: a tree's nodes, or blocks side by side.

Where a token stands in a text and where its keys lie in a cache are two things here: column i of a
forward always lies i places behind the row's length.
"""

from typing import NamedTuple

import mlx.core as mx


class Layout(NamedTuple):
    """How q columns of each of R rows stand to each other.

    depths [R, q] int32: a column's position, counted from the row's offset. sees [R, q, q] bool:
    whether column i sees column j. lines [R, q, L] int32, of trees: the column at each depth on the
    way to column i, which means nothing beyond its own depth.
    """

    depths: mx.array
    sees: mx.array
    lines: mx.array | None = None


def tree(parents: mx.array, levels: int) -> Layout:
    """A tree of columns by their ``parents`` [R, q] int32: each before its own, 0 for column 0.

    ``levels``: more than the greatest depth, which is 0 for column 0.
    """
    column = mx.broadcast_to(mx.arange(parents.shape[1], dtype=mx.int32), parents.shape)
    line = [column]
    for _ in range(levels - 1):
        line.append(mx.take_along_axis(parents, line[-1], axis=1))
    upward = mx.stack(line, axis=-1)  # [R, q, L]: a column, its parent, ..., column 0 at the end
    depths = mx.sum(upward > 0, axis=-1).astype(mx.int32)
    sees = mx.any(upward[..., None, :] == mx.arange(parents.shape[1])[:, None], axis=-1)
    steps = depths[..., None] - mx.arange(levels, dtype=mx.int32)
    return Layout(depths, sees, mx.take_along_axis(upward, mx.maximum(steps, 0), axis=-1))


def side_by_side(rows: int, blocks: int, width: int) -> Layout:
    """``blocks`` blocks of ``width`` columns: behind the same tokens, blind to each other."""
    column = mx.arange(blocks * width, dtype=mx.int32)
    depths = mx.broadcast_to(column % width, (rows, column.size))
    block = column // width
    sees = mx.broadcast_to(block[:, None] == block, (rows, column.size, column.size))
    return Layout(depths, sees)
