"""Which blocks of a sequence are trained on: anchors, labels and weights.

Follows the recipe of arXiv 2602.06036: a constant number of distinct anchors per sequence, drawn
anew in each epoch. Plain numpy; knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Example:
    """One clean sequence: a prompt and the target's own answer.

    tokens: [T] int32. loss_mask: [T] bool, true where a token is the target's own choice.
    """

    tokens: IntArray
    loss_mask: BoolArray

    def __post_init__(self) -> None:
        if self.tokens.shape != self.loss_mask.shape or self.tokens.ndim != 1:
            raise ValueError(
                f"tokens {self.tokens.shape} and loss_mask {self.loss_mask.shape} must be one [T]"
            )

    @property
    def length(self) -> int:
        return int(self.tokens.shape[0])


@dataclass(frozen=True, slots=True)
class Blocks:
    """N blocks of B slots for each of S sequences.

    anchors: [S, N] int32, sorted. keep: [S, N] bool, false for blocks that only fill up.
    labels: [S, N, B] int32, the token at anchor + slot: slot 0 is the anchor itself and no label.
    weights: [S, N, B] float32; slot 0 is 0.
    """

    anchors: IntArray
    keep: BoolArray
    labels: IntArray
    weights: FloatArray


def slot_weights(block_size: int, gamma: float) -> FloatArray:
    """[B]: 0 for the anchor, then exp(-(slot - 1) / gamma): early slots decide acceptance."""
    slots = np.arange(block_size, dtype=np.float32)
    weights: FloatArray = np.exp(-(slots - 1) / np.float32(gamma)).astype(np.float32)
    weights[0] = 0.0
    return weights


def eligible_anchors(loss_mask: BoolArray) -> npt.NDArray[np.int64]:
    """Positions that are answer tokens and are followed by one: [E], ascending.

    The first generated token is one of them: at inference it is the first anchor.
    """
    return np.flatnonzero(loss_mask[:-1] & loss_mask[1:])


def draw_anchors(
    loss_mask: BoolArray, count: int, rng: np.random.Generator
) -> tuple[IntArray, BoolArray]:
    """``count`` distinct eligible anchors, sorted, and which of them exist: [N] int32, [N] bool.

    Where fewer are eligible the rest are anchors at position 0 that are not kept: the number of
    block rows never varies, so a compiled step is never compiled again.
    """
    eligible = eligible_anchors(loss_mask)
    drawn = np.sort(rng.permutation(eligible)[:count])
    anchors = np.zeros(count, dtype=np.int32)
    anchors[: drawn.size] = drawn
    return anchors, np.arange(count) < drawn.size


def make_blocks(
    examples: Sequence[Example],
    rngs: Sequence[np.random.Generator],
    *,
    count: int,
    block_size: int,
    gamma: float,
) -> Blocks:
    """Draw ``count`` blocks for each example; ``rngs`` holds one generator per example."""
    drawn = [
        draw_anchors(example.loss_mask, count, rng)
        for example, rng in zip(examples, rngs, strict=True)
    ]
    anchors = np.stack([anchor for anchor, _ in drawn])
    return blocks_at(
        examples,
        anchors,
        np.stack([keep for _, keep in drawn]),
        slot_weights(block_size, gamma),
    )


def blocks_at(
    examples: Sequence[Example], anchors: IntArray, keep: BoolArray, by_slot: FloatArray
) -> Blocks:
    """Labels and weights of given [S, N] anchors.

    weight = keep * (anchor + slot < T) * loss_mask[anchor + slot] * by_slot[slot].
    """
    slots = np.arange(by_slot.size)
    labels = np.zeros((*anchors.shape, by_slot.size), dtype=np.int32)
    weights = np.zeros(labels.shape, dtype=np.float32)
    for row, example in enumerate(examples):
        positions = anchors[row][:, None] + slots  # [N, B]
        inside = positions < example.length
        positions = np.minimum(positions, example.length - 1)
        labels[row] = np.where(inside, example.tokens[positions], 0)
        counted = inside & example.loss_mask[positions] & keep[row][:, None]
        weights[row] = counted * by_slot
    return Blocks(anchors, keep, labels, weights)
