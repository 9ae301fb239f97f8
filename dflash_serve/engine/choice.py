"""The target's token at each position of a round, after each row's own processing.

Order: bias, penalties, grammar mask, temperature, top-k, top-p, min-p. Rows whose logits change in
the same way form a group, which is gathered; the others are chosen for together, in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from dflash_serve.engine.cache.layout import Layout
from dflash_serve.engine.sampler import position_keys
from dflash_serve.engine.token_table import BANNED_UNTIL, BIAS, COUNT, FIELDS, SEEN, TokenTable
from dflash_serve.engine.types import LogitRules, SamplingParams
from dflash_serve.kernels.token_choice import Drafted, Draw, token_choice

Arrays = dict[str, mx.array]
_BANNED = -1e30
"""Finite: where a grammar leaves nothing but a banned stop token, that one is chosen."""


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """What choosing for one row of a round takes.

    ``position`` is that of the first token to choose, ``generated`` the number of tokens generated
    before it. ``masks`` [n, words] uint32 for the first n positions, as in `constraint.Walk`.
    """

    sampling: SamplingParams
    position: int
    generated: int = 0
    rules: LogitRules | None = None
    table: TokenTable | None = None
    masks: npt.NDArray[np.uint32] | None = None

    @property
    def kind(self) -> "GroupKind":
        sampling = self.sampling
        if sampling.greedy and self.table is None and self.masks is None and self.rules is None:
            return _GREEDY
        filtered = sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0
        return GroupKind(
            sampled=not sampling.greedy,
            filtered=filtered and not sampling.greedy,
            adjusted=self.table is not None,
            counted=self.rules is not None and self.rules.counts,
            masked=self.masks is not None,
        )


@dataclass(frozen=True, slots=True, order=True)
class GroupKind:
    """The steps of processing that a group of rows takes; ``whole``: all rows of the round.

    Steps that change logits are those of every row; ``sampled`` and ``filtered`` of at least one.
    """

    adjusted: bool = False
    counted: bool = False
    masked: bool = False
    sampled: bool = False
    filtered: bool = False
    whole: bool = False


_GREEDY = GroupKind()


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of one kind, as arrays for a traced function.

    index [K] int32 row numbers, but where the group is whole; sampled: settings [K, 4] float32
    (temperature, top_p, top_k, min_p) and keys [K, width, 2] uint32; adjusted: ids [K, E] int32,
    values [K, E, FIELDS] and rules [K, 4] float32 (presence, frequency, repetition, generated);
    masked: masks [K, width, words] uint32. K is padded to a power of two by repeating the last row
    and E with copies of a row's first entry, so that a changing mix of rows traces few graphs.
    """

    kind: GroupKind
    arrays: Arrays


def group_rows(rows: Sequence[ChoiceRow], width: int) -> tuple[RowGroup, ...]:
    """The groups of a round over ``rows``, a whole one first; none where all rows are greedy.

    Rows whose logits stay as they are belong to a whole group, where other rows count as greedy.
    """
    if all(row.kind is _GREEDY for row in rows):
        return ()
    groups: dict[GroupKind, list[int]] = {}
    for index, row in enumerate(rows):
        steps = replace(row.kind, sampled=False, filtered=False)
        groups.setdefault(steps, []).append(index)
    if len(groups) == 1:
        return _whole(rows, width)
    plain = set(groups.pop(GroupKind(), ()))
    greedy = SamplingParams()
    bare = [
        row if index in plain else ChoiceRow(greedy, row.position) for index, row in enumerate(rows)
    ]
    return _whole(bare, width) + tuple(
        _part([rows[index] for index in _padded(members)], members, width)
        for _, members in sorted(groups.items())  # an order of kinds, not of rows: few graphs
    )


def _whole(rows: Sequence[ChoiceRow], width: int) -> tuple[RowGroup, ...]:
    """All rows as one group; none where it would be greedy and nothing else."""
    kind = replace(_common(rows), whole=True)
    if kind == GroupKind(whole=True):
        return ()
    return (RowGroup(kind, _arrays(kind, rows, width)),)


def _part(rows: Sequence[ChoiceRow], members: list[int], width: int) -> RowGroup:
    kind = _common(rows)
    index = {"index": mx.array(_padded(members), dtype=mx.int32)}
    return RowGroup(kind, _arrays(kind, rows, width) | index)


def _common(rows: Sequence[ChoiceRow]) -> GroupKind:
    """The kind of rows whose logits change in the same way."""
    kinds = [row.kind for row in rows]
    sampled, filtered = (any(k.sampled for k in kinds), any(k.filtered for k in kinds))
    return replace(kinds[0], sampled=sampled, filtered=filtered)


def choose(
    logits: mx.array,
    drafts: mx.array,
    groups: Sequence[RowGroup],
    tree: Layout | None = None,
    lengths: mx.array | None = None,
) -> mx.array:
    """Logits [R, width, V], drafts [R, width - 1] -> the target's tokens [R, width] int32.

    ``tree``: how the columns stand to each other, which follow one another otherwise. Keys are by
    depth then, and there are no masks. ``lengths`` [R] int32, of chains: tokens at and beyond a
    row's length, or behind one that is not the draft's, may be -1.
    """
    whole = groups[0] if groups and groups[0].kind.whole else RowGroup(GroupKind(), {})
    choices = _choose_group(logits, drafts, whole, tree, lengths)
    for group in groups:
        if not group.kind.whole:
            index = group.arrays["index"]
            part = None if tree is None else Layout(tree.depths[index], tree.sees[index])
            ends = None if lengths is None else lengths[index]
            choices[index] = _choose_group(logits[index], drafts[index], group, part, ends)
    return choices


def _choose_group(
    logits: mx.array,
    drafts: mx.array,
    group: RowGroup,
    tree: Layout | None,
    lengths: mx.array | None,
) -> mx.array:
    kind, arrays = group.kind, group.arrays
    if kind.adjusted:
        counted = drafts if kind.counted else drafts[:, :0]
        logits = adjust(logits.astype(mx.float32), counted, arrays, tree)
    if kind.masked:
        logits = mask_tokens(logits.astype(mx.float32), arrays["masks"])
    draw = None
    if kind.sampled:
        keys = arrays["keys"]
        if tree is not None:
            keys = mx.take_along_axis(keys, tree.depths[..., None], axis=1)
        draw = Draw(arrays["settings"], keys, kind.filtered)
    return token_choice(logits, draw, None if lengths is None else Drafted(drafts, lengths))


def adjust(
    scores: mx.array, drafts: mx.array, arrays: Arrays, tree: Layout | None = None
) -> mx.array:
    """Bias, penalties and bans on scores [K, width, V], for the tokens of the table alone.

    Column i counts ``drafts[:, :i]`` as generated, or in a tree those on its path: drafts
    [K, width - 1], or [K, 0] where no count matters.
    """
    ids, values = _with_drafts(arrays["ids"], arrays["values"], drafts)
    presence, frequency, repetition, generated = (
        arrays["rules"][:, i, None, None] for i in range(4)
    )
    width = scores.shape[1]
    here = mx.broadcast_to(ids[:, None], (ids.shape[0], width, ids.shape[1]))  # [K, width, E]
    bias, count, seen, until = (values[:, None, :, i] for i in (BIAS, COUNT, SEEN, BANNED_UNTIL))
    if drafts.shape[1]:
        hits = (drafts[:, :, None] == ids[:, None]).astype(mx.float32)  # [K, width - 1, E]
        count = count + _counted(hits, tree)
        seen = mx.maximum(seen, count)
    score = mx.take_along_axis(scores, here, axis=-1) + bias
    repeated = mx.where(score > 0, score / repetition, score * repetition)
    score = mx.where(seen > 0, repeated, score)
    score = score - frequency * count - presence * (count > 0)
    depths = mx.arange(width) if tree is None else tree.depths
    position = generated + depths.astype(mx.float32)[..., None]
    score = mx.where(position < until, _BANNED, score)
    return mx.put_along_axis(scores, here, score, axis=-1)


def _counted(hits: mx.array, tree: Layout | None) -> mx.array:
    """Hits [K, width - 1, E] of drafts -> their number before each column [K, width, E]."""
    if tree is None:
        return mx.pad(mx.cumsum(hits, axis=1), [(0, 0), (1, 0), (0, 0)])
    return tree.sees[..., 1:].astype(mx.float32) @ hits


def _with_drafts(ids: mx.array, values: mx.array, drafts: mx.array) -> tuple[mx.array, mx.array]:
    """The table with one more entry per draft, a copy of the token's own one where it has one."""
    if not drafts.shape[1]:
        return ids, values
    same = drafts[:, :, None] == ids[:, None]  # [K, width - 1, E]
    at = mx.argmax(same, axis=-1)[..., None]
    known = mx.take_along_axis(values, at, axis=1)
    known = mx.where(mx.any(same, axis=-1, keepdims=True), known, 0.0)
    return mx.concatenate([ids, drafts], axis=1), mx.concatenate([values, known], axis=1)


def mask_tokens(scores: mx.array, masks: mx.array) -> mx.array:
    """Scores [K, width, V], -inf where the bit of masks [K, width, words] is 0."""
    bits = (masks[..., None] >> mx.arange(32, dtype=mx.uint32)) & 1
    allowed = bits.reshape(*masks.shape[:2], -1)[..., : scores.shape[-1]]
    return mx.where(allowed != 0, scores, -mx.inf)


def _padded(members: list[int]) -> list[int]:
    return members + members[-1:] * (_power_of_two(len(members)) - len(members))


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _arrays(kind: GroupKind, rows: Sequence[ChoiceRow], width: int) -> Arrays:
    arrays: Arrays = {}
    if kind.sampled:
        arrays |= _sampling_arrays(rows, width)
    if kind.adjusted:
        arrays |= _table_arrays(rows)
    if kind.masked:
        arrays["masks"] = _mask_array(rows, width)
    return arrays


def _sampling_arrays(rows: Sequence[ChoiceRow], width: int) -> dict[str, mx.array]:
    params = [row.sampling for row in rows]
    settings = [[p.temperature, p.top_p, p.top_k, p.min_p] for p in params]
    keys = position_keys([p.seed for p in params], [row.position for row in rows], width)
    return {"settings": mx.array(settings, dtype=mx.float32), "keys": mx.array(keys)}


def _table_arrays(rows: Sequence[ChoiceRow]) -> dict[str, mx.array]:
    tables = [row.table for row in rows if row.table is not None]
    entries = _power_of_two(max(8, *(len(table.ids) for table in tables)))
    ids = np.zeros((len(rows), entries), dtype=np.int32)
    values = np.zeros((len(rows), entries, FIELDS), dtype=np.float32)
    for at, table in enumerate(tables):
        count = len(table.ids)
        if count:
            ids[at, :count], ids[at, count:] = table.ids, table.ids[0]
            values[at, :count], values[at, count:] = table.values, table.values[0]
    rules = [
        [row.rules.presence, row.rules.frequency, row.rules.repetition, row.generated]
        for row in rows
        if row.rules is not None
    ]
    return {
        "ids": mx.array(ids),
        "values": mx.array(values),
        "rules": mx.array(rules, dtype=mx.float32),
    }


def _mask_array(rows: Sequence[ChoiceRow], width: int) -> mx.array:
    masks = [row.masks for row in rows if row.masks is not None]
    words = np.full((len(rows), width, masks[0].shape[1]), 0xFFFFFFFF, dtype=np.uint32)
    for at, mask in enumerate(masks):
        words[at, : len(mask)] = mask
    return mx.array(words)
