"""DFlash 2's choice of a block's tokens among candidates: primitives on CPUs.

There a vocabulary is read once for its candidates, where MLX would sort it in part, and a block is
walked in one operation instead of some ten for every slot.
"""

from typing import NamedTuple

import mlx.core as mx

from dflash_serve.kernels.native import native

_MOST = 64
"""Candidates up to which keeping the best so far is quicker than sorting in part."""


class Candidates(NamedTuple):
    """Ids [R, q, C] int32 of slots' likeliest tokens, and their logits [R, q, C]."""

    ids: mx.array
    logits: mx.array


class Rescoring(NamedTuple):
    """By what candidates are rescored: gates [R, q, r] of slots, tables [V, r] of tokens."""

    gates: mx.array
    predecessors: mx.array
    successors: mx.array


def top(logits: mx.array, count: int) -> Candidates:
    """The ``count`` highest of logits [..., V], or all of fewer: [..., C], in no order."""
    count = min(count, logits.shape[-1])
    module = native(logits) if count <= _MOST else None
    if module is None:
        return plain_top(logits, count)
    values, ids = module.top(logits, count)
    return Candidates(ids, values)


def plain_top(logits: mx.array, count: int) -> Candidates:
    """The reference."""
    ids = mx.argpartition(-logits, count - 1, axis=-1)[..., :count]
    return Candidates(ids.astype(mx.int32), mx.take_along_axis(logits, ids, axis=-1))


def walk(
    anchors: mx.array, candidates: Candidates, rescoring: Rescoring
) -> tuple[mx.array, mx.array]:
    """Tokens [R, q] int32 chosen left to right behind anchors [R] int32, and scores [R, q, C].

    A candidate's score is its logit + sum over r of gates * predecessors[token before] *
    successors[candidate].
    """
    module = native(candidates.logits, *rescoring)
    if module is None:
        return plain_walk(anchors, candidates, rescoring)
    tokens, scores = module.walk(
        anchors, module.Candidates(*candidates), module.Rescoring(*rescoring)
    )
    return tokens, scores


def plain_walk(
    anchors: mx.array, candidates: Candidates, rescoring: Rescoring
) -> tuple[mx.array, mx.array]:
    """The reference."""
    gates, predecessors, successors = rescoring
    slots = candidates.ids.shape[1]
    columns = successors[candidates.ids].swapaxes(-1, -2)  # [R, q, r, C]
    parts = (mx.split(part, slots, axis=1) for part in (*candidates, gates))
    after = [part.squeeze(1) for part in mx.split(columns, slots, axis=1)]
    chosen, scored, before = [], [], anchors[:, None]
    for ids, logits, gate, column in zip(*parts, after, strict=True):
        scores = logits + (gate * predecessors[before]) @ column  # [R, 1, C]
        best = mx.argmax(scores, axis=-1)
        before = mx.take_along_axis(ids.squeeze(1), best, axis=-1)
        chosen.append(before)
        scored.append(scores)
    return mx.concatenate(chosen, axis=1), mx.concatenate(scored, axis=1)
