"""The training objective over block rows, chunk by chunk, with its gradient to those rows.

sum(w * CE) over all slots of all blocks (arXiv 2602.06036), and its options. Logits of one chunk
exist at a time, so vocabulary and anchors may both be large. Knows no optimiser.
"""

from dataclasses import dataclass

import mlx.core as mx
from mlx.utils import tree_map

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.dflash2 import CandidateSelector

Sums = dict[str, mx.array]
Weights = dict[str, mx.array]


@dataclass(frozen=True, slots=True)
class Objective:
    """What a slot's prediction is held against.

    soft_label: share of KL(target || drafter) that takes the place of cross-entropy, 0 to 1.
    d_pace: None, or D-PACE's alpha: slot weights follow from how likely the block's labels are
    (arXiv 2605.18810) instead of decaying by gamma. selector_alpha: weight of a DFlash 2
    selector's own cross-entropy over its candidates. logit_bytes: float32 logits held at once.
    """

    soft_label: float = 0.0
    d_pace: float | None = None
    selector_alpha: float = 1.0
    logit_bytes: int = 128 << 20

    def __post_init__(self) -> None:
        if not 0.0 <= self.soft_label <= 1.0:
            raise ValueError(f"soft_label is {self.soft_label}, but must be 0 to 1")
        if self.d_pace is not None and not 0.0 <= self.d_pace <= 1.0:
            raise ValueError(f"d_pace is {self.d_pace}, but must be 0 to 1")
        if self.selector_alpha < 0.0:
            raise ValueError(f"selector_alpha is {self.selector_alpha}, but must not be negative")


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

    def part(self, first: int, size: int) -> "SlotRows":
        cut = slice(first, first + size)
        final = None if self.final is None else self.final[cut]
        return SlotRows(
            self.rows[cut], self.labels[cut], self.weights[cut], self.visible[cut], final
        )


def chunked_objective(
    drafter: DFlashDrafter, objective: Objective, slots: SlotRows, selector: Weights | None
) -> tuple[Sums, mx.array, Weights | None]:
    """Sums over all slots, and the gradients of sums["loss"] to the rows and to the selector.

    Sums add up over chunks, micro-batches and processes: loss = sum(w * objective), weight =
    sum(w), with a selector also unary, the loss without it, and counts: right and seen [B - 1] by
    slot, accepted (slots before the first wrong one, visible ones included), blocks.
    """
    count, width = slots.labels.shape[0], slots.labels.shape[1] - 1
    vocabulary = drafter.config.vocab_size
    size = max(1, min(count, objective.logit_bytes // (4 * width * vocabulary)))
    sums: Sums = {}
    to_rows: list[mx.array] = []
    to_selector: Weights | None = None
    for first in range(0, count, size):
        part = slots.part(first, size)
        if to_rows:  # one chunk after the other: the last one's logits are gone by then
            part = _after(part, to_rows[-1])
        added, rows, chosen = _chunk(drafter, objective, part, selector)
        sums = {name: sums[name] + value for name, value in added.items()} if sums else added
        to_rows.append(rows)
        if chosen is not None:
            to_selector = chosen if to_selector is None else tree_map(mx.add, to_selector, chosen)
    return sums, mx.concatenate(to_rows), to_selector


def _after(part: SlotRows, done: mx.array) -> SlotRows:
    rows: mx.array = mx.depends(part.rows, done)
    return SlotRows(rows, part.labels, part.weights, part.visible, part.final)


def _chunk(
    drafter: DFlashDrafter, objective: Objective, part: SlotRows, selector: Weights | None
) -> tuple[Sums, mx.array, Weights | None]:
    """Forward and backward of one chunk: head, losses, and back through the head to the rows."""
    logits = drafter.logits(part.rows)
    weights = _weights(objective, logits, part)

    def unary(values: mx.array) -> mx.array:
        loss = cross_entropy(values, part.labels[:, 1:])
        if objective.soft_label:
            assert part.final is not None
            distance = _divergence(values, drafter.target_logits(part.final))
            loss = (1.0 - objective.soft_label) * loss + objective.soft_label * distance
        return (loss * weights).sum()

    loss, to_logits = mx.value_and_grad(unary)(logits)
    right = mx.argmax(logits, axis=-1) == part.labels[:, 1:]
    sums = {"loss": loss, "weight": weights.sum()}
    to_rows, to_selector = mx.zeros_like(part.rows), None
    if selector is not None:
        chosen, right, backward = _selector_loss(drafter, part, logits, weights, selector)
        alpha = objective.selector_alpha
        sums |= {"loss": loss + alpha * chosen, "unary": loss}
        at, to_unary, to_rows, to_selector = backward
        # several candidates never name the same token, so nothing is added twice
        spread = mx.put_along_axis(mx.zeros_like(logits), at, to_unary, axis=-1)
        to_logits = to_logits + alpha * spread
        to_rows = alpha * to_rows
        to_selector = {name: alpha * value for name, value in to_selector.items()}
    _, (through_head,) = mx.vjp(drafter.logits, [part.rows], [to_logits.astype(logits.dtype)])
    return sums | _counts(right, part), to_rows + through_head, to_selector


def cross_entropy(logits: mx.array, labels: mx.array) -> mx.array:
    """[..., V] logits, [...] labels -> [...] float32."""
    logits = logits.astype(mx.float32)
    picked = mx.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return mx.logsumexp(logits, axis=-1) - picked


def _divergence(logits: mx.array, target_logits: mx.array) -> mx.array:
    """KL(target || drafter) by slot, [M, B - 1] float32."""
    wanted = target_logits.astype(mx.float32)
    wanted = wanted - mx.logsumexp(wanted, axis=-1, keepdims=True)
    given = logits.astype(mx.float32)
    given = given - mx.logsumexp(given, axis=-1, keepdims=True)
    return (mx.exp(wanted) * (wanted - given)).sum(axis=-1)


def _weights(objective: Objective, logits: mx.array, part: SlotRows) -> mx.array:
    """[M, B - 1] weights: as given, or D-PACE's for those slots that have any.

    D-PACE: s_k = (1 - alpha) p(label_k) + alpha, weight_k = sum over j >= k of prod over i <= j of
    s_i: what a better slot k adds to the expected accepted prefix. A slot without a label
    is passed over: the loss mask is one of positions, not a cumulative product.
    """
    given = part.weights[:, 1:]
    if objective.d_pace is None:
        return given
    counted = given > 0
    likely = mx.exp(-cross_entropy(logits, part.labels[:, 1:]))
    smooth = (1.0 - objective.d_pace) * likely + objective.d_pace
    prefix = mx.where(counted, mx.cumprod(mx.where(counted, smooth, 1.0), axis=-1), 0.0)
    onward = mx.cumsum(prefix, axis=-1, reverse=True)
    return mx.stop_gradient(mx.where(counted, onward, 0.0))


def _selector_loss(
    drafter: DFlashDrafter,
    part: SlotRows,
    logits: mx.array,
    weights: mx.array,
    selector: Weights,
) -> tuple[mx.array, mx.array, tuple[mx.array, mx.array, mx.array, Weights]]:
    """sum(w * CE) over the candidates, knowing the true token before each slot (DFlash 2).

    A label that is no candidate takes the place of the least likely one. Returns the sum; which
    slots the selector gets right by itself [M, B - 1]; and what flows back: candidate ids and the
    gradients to their logits [M, B - 1, C], to the rows, and to the selector's weights.
    """
    module: CandidateSelector = drafter.model.candidate_selector
    labels, before = part.labels[:, 1:, None], part.labels[:, :-1]
    found = module.candidates(logits)
    among = mx.take_along_axis(logits, found, axis=-1)
    present = (found == labels).any(axis=-1, keepdims=True)
    least = mx.argmin(among, axis=-1, keepdims=True) == mx.arange(found.shape[-1])
    ids = mx.where(least & ~present, labels, found)
    place = mx.argmax(ids == labels, axis=-1)

    def chosen(
        unary: mx.array, rows: mx.array, projection: mx.array, left: mx.array, right: mx.array
    ) -> tuple[mx.array, mx.array]:
        gate = (rows @ projection.T) * left
        scores = unary + (right @ gate[..., None])[..., 0]
        return (cross_entropy(scores, place) * weights).sum(), scores

    books = selector["predecessor_codebook"], selector["successor_codebook"]
    projection = selector["hidden_projection"]
    unary = mx.take_along_axis(logits, ids, axis=-1)
    gathered = books[0][before], books[1][ids]
    (total, scores), (to_unary, to_rows, to_projection, to_left, to_right) = mx.value_and_grad(
        chosen, argnums=(0, 1, 2, 3, 4)
    )(unary, part.rows, projection, *gathered)
    gradients = {
        "predecessor_codebook": mx.zeros_like(books[0]).at[before].add(to_left),
        "successor_codebook": mx.zeros_like(books[1]).at[ids].add(to_right),
        "hidden_projection": to_projection,
    }
    right_ones = present[..., 0] & (mx.argmax(scores, axis=-1) == place)
    return total, right_ones, (ids, to_unary, to_rows, gradients)


def _counts(right: mx.array, part: SlotRows) -> Sums:
    """Right slots by place; a slot without weight is not seen and ends its block unless visible."""
    has_label = part.weights[:, 1:] > 0
    shown = mx.arange(1, part.labels.shape[1]) < part.visible[:, None]
    right = right & has_label
    kept = has_label.any(axis=-1)
    accepted = mx.cumprod((right | shown).astype(mx.float32), axis=-1).sum(axis=-1)
    return {
        "right": right.sum(axis=0).astype(mx.float32),
        "seen": has_label.sum(axis=0).astype(mx.float32),
        "accepted": mx.where(kept, accepted, 0.0).sum(),
        "blocks": kept.sum().astype(mx.float32),
    }
