"""The training objective of a group of blocks: sums that add up over groups and processes.

sum(w * CE) over all slots (arXiv 2602.06036), and its options. Knows no network and no optimiser.
"""

from dataclasses import dataclass

import mlx.core as mx

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.dflash2 import CandidateSelector
from dflash_serve.kernels.argmax import argmax
from dflash_serve.kernels.cross_entropy import cross_entropy
from dflash_serve.training.step.objective import DFLASH, DPACE, DPACE_CONTINUATION, Objective

Sums = dict[str, mx.array]

_TINY = 1.2e-38  # below it float32 is not exact: with alpha 0 a product may vanish


@dataclass(frozen=True, slots=True)
class SlotRows:
    """M blocks of B - 1 predicted slots, as arrays whose first axis is M.

    rows: [M, B - 1, H] after the final norm. labels: [M, B] int32, the anchor first. weights:
    [M, B] float32. visible: [M] int32. final: [M, B - 1, H], the target's rows that predict the
    same tokens, or None where soft labels are not used.
    """

    rows: mx.array
    labels: mx.array
    weights: mx.array
    visible: mx.array
    final: mx.array | None


def block_objective(drafter: DFlashDrafter, objective: Objective, slots: SlotRows) -> Sums:
    """Sums over all slots, of which sums["loss"] is what training lowers.

    Sums add up over groups of blocks, micro-batches and processes: loss = sum(w * objective),
    weight = sum(w), with a selector also unary, the loss without it, and counts: right and seen
    [B - 1] by slot, accepted (slots before the first wrong one, visible ones included), blocks.
    """
    logits = drafter.logits(slots.rows)
    weights = _weights(objective, logits, slots)
    loss = cross_entropy(logits, slots.labels[:, 1:])
    if objective.soft_label:
        assert slots.final is not None
        distance = _divergence(logits, drafter.target_logits(slots.final))
        loss = (1.0 - objective.soft_label) * loss + objective.soft_label * distance
    sums = {"loss": (loss * weights).sum(), "weight": weights.sum()}
    right = argmax(logits) == slots.labels[:, 1:]
    if drafter.config.selector_rank:
        chosen, right = _selector_loss(drafter.model.candidate_selector, slots, logits)
        # two sums of one graph would be one output: MLX's compiler cannot tell them apart
        unary = sums["loss"]
        total = unary + objective.selector_alpha * (chosen * weights).sum()
        sums |= {"loss": total, "unary": unary}
    return sums | _counts(right, slots)


def _divergence(logits: mx.array, target_logits: mx.array) -> mx.array:
    """KL(target || drafter) by slot, [M, B - 1] float32."""
    wanted = target_logits.astype(mx.float32)
    wanted = wanted - mx.logsumexp(wanted, axis=-1, keepdims=True)
    given = logits.astype(mx.float32)
    given = given - mx.logsumexp(given, axis=-1, keepdims=True)
    return (mx.exp(wanted) * (wanted - given)).sum(axis=-1)


def _weights(objective: Objective, logits: mx.array, slots: SlotRows) -> mx.array:
    """[M, B - 1] weights: as given, or D-PACE's for those slots that have any.

    With s_k = (1 - alpha) p(label_k) + alpha and C_k = s_1 ... s_k, the weight of slot k is the sum
    of C_k to C_(B-1), what a better slot k adds to the expected accepted prefix; or of its two
    parts C_k alone or the sum divided by C_k. A slot without a label is passed over: the loss mask
    is one of positions, not a cumulative product.
    """
    given = slots.weights[:, 1:]
    if objective.loss_type == DFLASH:
        return given
    counted = given > 0
    likely = mx.exp(-cross_entropy(logits, slots.labels[:, 1:]))
    smooth = (1.0 - objective.d_pace) * likely + objective.d_pace
    prefix = mx.cumprod(mx.where(counted, smooth, 1.0), axis=-1)
    weights = prefix
    if objective.loss_type in (DPACE, DPACE_CONTINUATION):
        weights = mx.cumsum(mx.where(counted, prefix, 0.0), axis=-1, reverse=True)
    if objective.loss_type == DPACE_CONTINUATION:
        weights = weights / mx.maximum(prefix, _TINY)
    return mx.stop_gradient(mx.where(counted, weights, 0.0))


def _selector_loss(
    selector: CandidateSelector, slots: SlotRows, logits: mx.array
) -> tuple[mx.array, mx.array]:
    """Cross-entropy over the candidates, knowing the true token before each slot (DFlash 2).

    A label that is no candidate takes the place of the least likely one. Returns [M, B - 1]
    float32, and which slots the selector gets right by itself.
    """
    labels, before = slots.labels[:, 1:, None], slots.labels[:, :-1]
    found, among = selector.candidates(mx.stop_gradient(logits))
    present = (found == labels).any(axis=-1, keepdims=True)
    least = mx.argmin(among, axis=-1, keepdims=True) == mx.arange(found.shape[-1])
    ids = mx.where(least & ~present, labels, found)
    place = mx.argmax(ids == labels, axis=-1)
    unary = mx.take_along_axis(logits, ids, axis=-1)
    scores = selector.scores(slots.rows, before, ids, unary)
    right = present[..., 0] & (mx.argmax(scores, axis=-1) == place)
    return cross_entropy(scores, place), right


def _counts(right: mx.array, slots: SlotRows) -> Sums:
    """Right slots by place; a slot without weight is not seen and ends its block unless visible."""
    has_label = slots.weights[:, 1:] > 0
    shown = mx.arange(1, slots.labels.shape[1]) < slots.visible[:, None]
    right = right & has_label
    kept = has_label.any(axis=-1)
    accepted = mx.cumprod((right | shown).astype(mx.float32), axis=-1).sum(axis=-1)
    return {
        "right": right.sum(axis=0).astype(mx.float32),
        "seen": has_label.sum(axis=0).astype(mx.float32),
        "accepted": mx.where(kept, accepted, 0.0).sum(),
        "blocks": kept.sum().astype(mx.float32),
    }
