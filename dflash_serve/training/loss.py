"""The training objective: cross-entropy with decaying weights, and what it predicts about speed.

sum(w * CE) / sum(w) over all slots of all blocks (arXiv 2602.06036). Knows no optimiser.
"""

from dataclasses import dataclass

import mlx.core as mx
from mlx import nn


@dataclass(frozen=True, slots=True)
class SlotCounts:
    """What one batch of blocks got right; sums, so that batches can be added.

    right, seen: [B - 1] float32, slots after the anchor whose argmax is the label, and all with a
    label. accepted: [] float32, slots before the first wrong one, over all blocks. blocks: [].
    """

    right: mx.array
    seen: mx.array
    accepted: mx.array
    blocks: mx.array


def block_loss(logits: mx.array, labels: mx.array, weights: mx.array) -> mx.array:
    """[S, N, B - 1, V] logits, [S, N, B] labels and weights -> [] float32; 0 without any weight."""
    by_slot = weights[:, :, 1:]
    entropy = nn.losses.cross_entropy(logits.astype(mx.float32), labels[:, :, 1:])
    loss: mx.array = (entropy * by_slot).sum() / mx.maximum(by_slot.sum(), 1e-9)
    return loss


def slot_counts(logits: mx.array, labels: mx.array, weights: mx.array) -> SlotCounts:
    """Count right slots; a slot without weight has no label and ends its block."""
    has_label = weights[:, :, 1:] > 0
    right = (mx.argmax(logits, axis=-1) == labels[:, :, 1:]) & has_label
    accepted = mx.cumprod(right.astype(mx.float32), axis=-1)
    return SlotCounts(
        right.sum(axis=(0, 1)).astype(mx.float32),
        has_label.sum(axis=(0, 1)).astype(mx.float32),
        accepted.sum(),
        has_label[:, :, 0].sum().astype(mx.float32),
    )
