"""D2SD: a second drafter goes on from where the first one's block is likely to break.

The probability that exactly i drafts of the first block survive picks the breaks. A VP-drafter,
trained to go on from a visible prefix, fills the block behind each, and the blocks are merged into
one tree of a given budget (the published method verifies them side by side).
"""

from collections.abc import Callable

import mlx.core as mx

from dflash_serve.adapters.base import Draft
from dflash_serve.engine.cache.attention import SPARE
from dflash_serve.engine.tree import Nodes, Tree, chosen

MOST_BRANCHES = 4
"""Breaks that are followed up; the published number."""
_STEP = 1e-3
_LEAST = -30.0
_NEVER = -1e9

Fill = Callable[[mx.array], tuple[mx.array, mx.array]]
"""Blocks [R, K, w] int32, -1 where a token is wanted -> tokens int32 and log-probabilities, both
[R, K, w - 1]: of the slots behind the anchor, given ones as they were."""


def branches(width: int) -> int:
    """How many blocks of ``width`` the second drafter fills at once: a ring can roll them back."""
    return max(1, min(MOST_BRANCHES, width - 1, SPARE // width))


def grow_dual(
    draft: Draft, anchors: mx.array, shape: tuple[int, int], nodes: int, fill: Fill
) -> Tree:
    """The first drafter's chain and the branches off it, merged: at most ``nodes`` drafts.

    ``shape``: how many branches, and the width of a block with its anchor. anchors [R] int32.
    """
    count, width = shape
    chain = draft.chain()
    sure = mx.log(mx.maximum(draft.confidences(), 1e-6))
    breaks, odds = likely_breaks(sure, count)
    slot = mx.arange(width, dtype=mx.int32)
    block = mx.concatenate([anchors[:, None], chain], axis=1)[:, None]
    tokens, scores = fill(mx.where(slot <= breaks[..., None], block, -1))
    return chosen(merged(chain, sure, tokens, _branch_scores(scores, breaks, odds)), nodes)


def likely_breaks(sure: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Log-probabilities [R, w - 1] of a chain's drafts -> the likeliest breaks [R, K] int32.

    A break i: that many drafts survive and no more. Beside it the log of its probability,
    prod(c_k, k <= i) * (1 - c_(i + 1)).
    """
    survives = mx.cumsum(sure, axis=1) - sure  # [R, w - 1]: the drafts before each
    ends = mx.log1p(-mx.minimum(mx.exp(sure), 1 - 1e-6))
    odds = survives + ends
    if count < odds.shape[1]:
        best = mx.sort(mx.argpartition(-odds, count - 1, axis=1)[:, :count], axis=1)
    else:
        best = mx.broadcast_to(mx.arange(odds.shape[1]), odds.shape)
    return best.astype(mx.int32), mx.take_along_axis(odds, best, axis=1)


def merged(chain: mx.array, sure: mx.array, tokens: mx.array, scores: mx.array) -> Nodes:
    """All lines as one tree, level by level: the chain [R, n] and K branches [R, K, n].

    Equal paths become one node, with the highest of their scores: ``sure`` [R, n] are
    log-probabilities of the chain's drafts, ``scores`` [R, K, n] those of the branches' paths.
    """
    lines = mx.concatenate([chain[:, None], tokens], axis=1)  # [R, P, n]
    depth = mx.arange(1, lines.shape[2] + 1)
    path = mx.cumsum(mx.maximum(sure, _LEAST), axis=1)[:, None]
    path = mx.concatenate([path, scores], axis=1) - _STEP * depth
    equal = (lines[:, :, None] == lines[:, None]).astype(mx.int32)
    same = mx.cumprod(equal, axis=-1) > 0  # [R, P, P, n]: two paths up to a depth
    first = mx.argmax(same, axis=2).astype(mx.int32)  # [R, P, n]: the line that stands for it
    best = mx.max(mx.where(same, path[:, None], _NEVER), axis=2)
    count = lines.shape[1]
    stands = first == mx.arange(count, dtype=mx.int32)[:, None]
    above = first[..., :-1] + count * mx.arange(lines.shape[2] - 1, dtype=mx.int32)
    parents = mx.concatenate([mx.full((*first.shape[:2], 1), -1, dtype=mx.int32), above], axis=2)
    return Nodes(*map(_by_level, (lines, parents, mx.where(stands, best, _NEVER))))


def _branch_scores(scores: mx.array, breaks: mx.array, odds: mx.array) -> mx.array:
    """Log-probabilities of slots [R, K, n] -> of paths, for the slots behind each break."""
    slot = mx.arange(scores.shape[2], dtype=mx.int32)
    drafted = slot >= breaks[..., None]
    path = odds[..., None] + mx.cumsum(mx.where(drafted, mx.maximum(scores, _LEAST), 0.0), axis=2)
    return mx.where(drafted, path, _NEVER)


def _by_level(array: mx.array) -> mx.array:
    """[R, P, n] -> [R, n * P], the nodes of a depth together."""
    return array.swapaxes(1, 2).reshape(array.shape[0], -1)
