"""Trees of drafts: the likeliest paths behind an anchor, as many as a budget of nodes holds.

Best first as in DDTree (arXiv 2604.12989): a node's score is the sum of log-probabilities along its
path, and the highest scores make the tree. Everything stays on the device.
"""

from typing import NamedTuple

import mlx.core as mx

from dflash_serve.adapters.base import Draft

STEP = 1e-3
"""What a level costs beside its log-probability, so that a parent's score is above a child's."""
LEAST = -30.0
"""The lowest log-probability of one level: sums stay where `STEP` counts."""


class Tree(NamedTuple):
    """n drafts behind each row's anchor: tokens [R, n] int32, and the column that each follows.

    Column 0 is the anchor, draft i is column i + 1; parents [R, n] int32 are columns before it.
    """

    tokens: mx.array
    parents: mx.array


class Nodes(NamedTuple):
    """M nodes to choose from, parents before children, as [R, M] arrays.

    tokens int32; parents int32: a node's index, -1 for the anchor; scores float32, each below its
    parent's.
    """

    tokens: mx.array
    parents: mx.array
    scores: mx.array


def grow(draft: Draft, anchors: mx.array, levels: int, nodes: int) -> Tree:
    """The best tree of at most ``nodes`` drafts behind ``anchors`` [R], none below ``levels``.

    A level keeps no more nodes than can be in the result, so no path that belongs there is lost.
    """
    above = Nodes(anchors[:, None], anchors[:, None], mx.zeros((anchors.shape[0], 1)))
    first = -1  # index of the first node above
    found: list[Nodes] = []
    for slot in range(min(levels, nodes)):
        room = nodes - slot  # a node here has ``slot`` others above it
        level = _children(draft, slot, above, room)
        found.append(level._replace(parents=level.parents + first))
        first += above.tokens.shape[1]
        above = level
    return chosen(_joined(found), nodes)


def _children(draft: Draft, slot: int, above: Nodes, room: int) -> Nodes:
    """The best nodes [R, <= room] after a level of N; their parents are indices into it."""
    tokens, steps = draft.children(slot, above.tokens, room)  # [R, N, C]
    total = above.scores[..., None] + mx.maximum(steps, LEAST) - STEP
    rows, _, count = total.shape
    total, tokens = total.reshape(rows, -1), tokens.reshape(rows, -1)
    best = _highest(total, room)
    parents = (best // count).astype(mx.int32)
    return Nodes(_at(tokens, best), parents, _at(total, best))


def chosen(nodes: Nodes, budget: int) -> Tree:
    """The ``budget`` nodes of the highest scores, or all where there are fewer."""
    best = mx.sort(_highest(nodes.scores, budget), axis=1)  # parents stay before children
    rows, count = best.shape
    columns = mx.broadcast_to(mx.arange(1, count + 1, dtype=mx.int32), best.shape)
    column = mx.zeros((rows, nodes.scores.shape[1] + 1), dtype=mx.int32)  # the anchor's comes first
    column = mx.put_along_axis(column, best + 1, columns, axis=1)
    return Tree(_at(nodes.tokens, best), _at(column, _at(nodes.parents, best) + 1))


def _joined(parts: list[Nodes]) -> Nodes:
    return Nodes(*(mx.concatenate(list(arrays), axis=1) for arrays in zip(*parts, strict=True)))


def _highest(scores: mx.array, count: int) -> mx.array:
    """Indices [R, <= count] of the highest of scores [R, M], in no order."""
    if count >= scores.shape[1]:
        return mx.broadcast_to(mx.arange(scores.shape[1]), scores.shape)
    return mx.argpartition(-scores, count - 1, axis=1)[:, :count]


def _at(array: mx.array, index: mx.array) -> mx.array:
    return mx.take_along_axis(array, index, axis=1)
