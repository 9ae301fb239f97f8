"""D2SD: a second drafter goes on from where the first one's block is likely to break.

Published: the break at draft i + 1 is as likely as drafts 1 to i survive and no more, and a
VP-drafter, trained to go on from a visible prefix, fills the block from the break on; all blocks
are verified side by side. Here a break takes one of the first drafter's next best tokens, and the
VP-drafter goes on behind it: its own first choice is too often the token that broke. All paths are
merged into one tree of a given budget.
"""

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from dflash_serve.adapters.base import Draft
from dflash_serve.engine.cache.attention import SPARE
from dflash_serve.engine.tree import LEAST, STEP, Nodes, Tree, chosen

MOST_BRANCHES = 7
"""Rivals that are followed up; published are 4 breaks, with one token each."""
_RIVALS = 3
"""Tokens of each slot that may stand in its place."""
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
    rivals = _rivals(draft, anchors, chain, sure)
    if not rivals.odds.shape[1]:  # the first drafter tells no second token: nothing can branch off
        return chosen(merged(chain, sure, chain[:, None][:, :0], sure[:, None][:, :0]), nodes)
    starts = likeliest_rivals(rivals, count)
    slot = mx.arange(width, dtype=mx.int32)
    block = mx.concatenate([anchors[:, None], chain], axis=1)[:, None]
    breaks = starts.slots[..., None]  # [R, K, 1]
    behind = mx.where(slot == breaks + 1, starts.tokens[..., None], -1)
    tokens, scores = fill(mx.where(slot <= breaks, block, behind))
    paths = _path_scores(scores, breaks, starts.odds[..., None])
    return chosen(merged(chain, sure, tokens, paths), nodes)


class Rivals(NamedTuple):
    """Tokens that may stand where the chain has another, as [R, M] arrays.

    slots int32: the draft in whose place a token stands. odds float32: the log-probability of the
    path up to it.
    """

    tokens: mx.array
    slots: mx.array
    odds: mx.array


def likeliest_rivals(rivals: Rivals, count: int) -> Rivals:
    """The ``count`` of the highest odds, or all where there are fewer."""
    if count >= rivals.odds.shape[1]:
        return rivals
    best = mx.sort(mx.argpartition(-rivals.odds, count - 1, axis=1)[:, :count], axis=1)
    return Rivals(*(mx.take_along_axis(array, best, axis=1) for array in rivals))


def _rivals(draft: Draft, anchors: mx.array, chain: mx.array, sure: mx.array) -> Rivals:
    """The next best tokens of every slot, after the chain's tokens before it."""
    before = mx.concatenate([anchors[:, None], chain[:, :-1]], axis=1)
    found = [draft.children(i, before[:, i : i + 1], 1 + _RIVALS) for i in range(chain.shape[1])]
    tokens, steps = (
        mx.concatenate([part[:, :, 1:] for part in parts], axis=1)  # [R, w - 1, rivals]
        for parts in zip(*found, strict=True)
    )
    odds = (mx.cumsum(sure, axis=1) - sure)[..., None] + mx.maximum(steps, LEAST)
    slots = mx.broadcast_to(mx.arange(tokens.shape[1], dtype=mx.int32)[:, None], tokens.shape)
    return Rivals(*(array.reshape(array.shape[0], -1) for array in (tokens, slots, odds)))


def merged(chain: mx.array, sure: mx.array, tokens: mx.array, scores: mx.array) -> Nodes:
    """All lines as one tree, level by level: the chain [R, n] and K branches [R, K, n].

    Equal paths become one node, with the highest of their scores: ``sure`` [R, n] are
    log-probabilities of the chain's drafts, ``scores`` [R, K, n] those of the branches' paths.
    """
    lines = mx.concatenate([chain[:, None], tokens], axis=1)  # [R, P, n]
    depth = mx.arange(1, lines.shape[2] + 1)
    path = mx.cumsum(mx.maximum(sure, LEAST), axis=1)[:, None]
    path = mx.concatenate([path, scores], axis=1) - STEP * depth
    equal = (lines[:, :, None] == lines[:, None]).astype(mx.int32)
    same = mx.cumprod(equal, axis=-1) > 0  # [R, P, P, n]: two paths up to a depth
    first = mx.argmax(same, axis=2).astype(mx.int32)  # [R, P, n]: the line that stands for it
    best = mx.max(mx.where(same, path[:, None], _NEVER), axis=2)
    count = lines.shape[1]
    stands = first == mx.arange(count, dtype=mx.int32)[:, None]
    above = first[..., :-1] + count * mx.arange(lines.shape[2] - 1, dtype=mx.int32)
    parents = mx.concatenate([mx.full((*first.shape[:2], 1), -1, dtype=mx.int32), above], axis=2)
    return Nodes(*map(_by_level, (lines, parents, mx.where(stands, best, _NEVER))))


def _path_scores(scores: mx.array, breaks: mx.array, start: mx.array) -> mx.array:
    """Log-probabilities of slots [R, K, n] -> of paths, from the rivals at ``breaks`` [R, K, 1] on.

    ``start`` [R, K, 1]: of the paths up to the rivals.
    """
    slot = mx.arange(scores.shape[2], dtype=mx.int32)
    behind = mx.where(slot > breaks, mx.maximum(scores, LEAST), 0.0)
    return mx.where(slot >= breaks, start + mx.cumsum(behind, axis=2), _NEVER)


def _by_level(array: mx.array) -> mx.array:
    """[R, P, n] -> [R, n * P], the nodes of a depth together."""
    return array.swapaxes(1, 2).reshape(array.shape[0], -1)
