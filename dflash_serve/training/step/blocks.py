"""Which blocks of a sequence are trained on: anchors, labels and weights.

Follows the recipe of arXiv 2602.06036: a constant number of distinct anchors per sequence, drawn
anew in each epoch. Plain numpy; knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.example import Example

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Blocks:
    """N blocks of B slots for each of S sequences.

    anchors: [S, N] int32, sorted. keep: [S, N] bool, false for blocks that only fill up.
    labels: [S, N, B] int32, the token at anchor + slot: slot 0 is the anchor itself and no label.
    weights: [S, N, B] float32; 0 for slots that are visible or have no label.
    visible: [S, N] int32, slots that hold their real token: 1, the anchor, except in VP training.
    """

    anchors: IntArray
    keep: BoolArray
    labels: IntArray
    weights: FloatArray
    visible: IntArray


@dataclass(frozen=True, slots=True)
class BlockRecipe:
    """How blocks are made: B slots, ``count`` blocks per sequence, slot weights decaying by gamma.

    prefix_weight_base: None for DFlash. For a VP-drafter (D2SD, variable prefix) the number i of
    visible slots is drawn from 2 .. B - 1 with P(i) proportional to base ** i.
    """

    block_size: int
    count: int
    gamma: float
    prefix_weight_base: float | None = None

    def __post_init__(self) -> None:
        base = self.prefix_weight_base
        if base is not None and (self.block_size < 3 or not 0.01 <= base <= 100):
            raise ValueError(
                "a VP-drafter needs a block of at least 3 and a prefix weight base from 0.01 to "
                f"100, not {self.block_size} and {base}"
            )


def default_gamma(block_size: int) -> float:
    """The decay of slot weights for a block: the published 4 at 8, 5 at 10 and 7 at 16, or between.

    Raises:
        DataError: the block is longer than any that a gamma was published for.
    """
    if block_size > 16:
        raise DataError(
            f"no gamma is published for blocks above 16, and this one is {block_size}: "
            "choose one with --gamma"
        )
    return block_size / 2 if block_size <= 10 else 5 + (block_size - 10) / 3


def slot_weights(block_size: int, gamma: float, visible: IntArray) -> FloatArray:
    """Visible slots [...] -> [..., B]: 0 for those, then exp(-(slot - visible) / gamma).

    Early slots decide acceptance.
    """
    behind = np.arange(block_size, dtype=np.float32) - visible[..., None].astype(np.float32)
    weights = np.where(behind < 0, 0.0, np.exp(-np.maximum(behind, 0) / np.float32(gamma)))
    return weights.astype(np.float32)


def draw_visible(recipe: BlockRecipe, rng: np.random.Generator) -> IntArray:
    """How many slots of each block hold their real token: [N] int32."""
    if recipe.prefix_weight_base is None:
        return np.ones(recipe.count, dtype=np.int32)
    lengths = np.arange(2, recipe.block_size)
    shares = np.power(recipe.prefix_weight_base, lengths.astype(np.float64))
    drawn = rng.choice(lengths, size=recipe.count, p=shares / shares.sum())
    return drawn.astype(np.int32)


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
    examples: Sequence[Example], rngs: Sequence[np.random.Generator], recipe: BlockRecipe
) -> Blocks:
    """Draw ``recipe.count`` blocks for each example; ``rngs`` holds one generator per example."""
    anchors, keep, visible = [], [], []
    for example, rng in zip(examples, rngs, strict=True):
        drawn, exists = draw_anchors(example.loss_mask, recipe.count, rng)
        anchors.append(drawn)
        keep.append(exists)
        visible.append(draw_visible(recipe, rng))
    return blocks_at(examples, np.stack(anchors), np.stack(keep), np.stack(visible), recipe)


def blocks_at(
    examples: Sequence[Example],
    anchors: IntArray,
    keep: BoolArray,
    visible: IntArray,
    recipe: BlockRecipe,
) -> Blocks:
    """Labels and weights of given [S, N] anchors.

    weight = keep * (anchor + slot < T) * loss_mask[anchor + slot] * decay, 0 where visible.
    """
    slots = np.arange(recipe.block_size)
    weights = slot_weights(recipe.block_size, recipe.gamma, visible)
    labels = np.zeros(weights.shape, dtype=np.int32)
    for row, example in enumerate(examples):
        positions = anchors[row][:, None] + slots  # [N, B]
        inside = positions < example.length
        positions = np.minimum(positions, example.length - 1)
        labels[row] = np.where(inside, example.tokens[positions], 0)
        weights[row] *= inside & example.loss_mask[positions] & keep[row][:, None]
    return Blocks(anchors, keep, labels, weights, visible)
