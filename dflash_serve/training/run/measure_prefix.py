"""Accuracy of a VP-drafter by how many slots of its block are visible, on known greedy answers.

D2SD (variable-prefix second drafts): slots below ``visible`` hold real tokens, the drafter fills
the others. Knows nothing of the first drafter whose tokens they will be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.kernels.block_attention import KeysValues
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.measure import contexts
from dflash_serve.training.step.attention import block_rows
from dflash_serve.training.step.blocks import BlockRecipe, Blocks, blocks_at, eligible_anchors

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PrefixTable:
    """Sums over blocks, so that tables add up. Row i is ``visible`` = i + 1, 1 to B - 1.

    right, seen: [B - 1, B - 1], column k is slot k + 1. accepted: [B - 1], slots from ``visible``
    on before the first wrong one. blocks: [B - 1].
    """

    right: Counts
    seen: Counts
    accepted: Counts
    blocks: Counts

    @staticmethod
    def empty(block_size: int) -> "PrefixTable":
        rows = block_size - 1
        square = (rows, rows)
        return PrefixTable(np.zeros(square), np.zeros(square), np.zeros(rows), np.zeros(rows))

    def plus(self, other: "PrefixTable") -> "PrefixTable":
        return PrefixTable(
            self.right + other.right,
            self.seen + other.seen,
            self.accepted + other.accepted,
            self.blocks + other.blocks,
        )

    def flat(self) -> list[float]:
        parts = (self.right, self.seen, self.accepted, self.blocks)
        return np.concatenate([part.reshape(-1) for part in parts]).tolist()

    @staticmethod
    def from_flat(values: Sequence[float], block_size: int) -> "PrefixTable":
        rows = block_size - 1
        cut = np.split(np.array(values), np.cumsum([rows * rows, rows * rows, rows]))
        return PrefixTable(cut[0].reshape(rows, -1), cut[1].reshape(rows, -1), cut[2], cut[3])

    @property
    def accuracy(self) -> list[list[float | None]]:
        """[visible - 1][slot - 1]; None where a slot is visible or was never seen."""
        return [
            [float(r / s) if s else None for r, s in zip(right, seen, strict=True)]
            for right, seen in zip(self.right, self.seen, strict=True)
        ]

    @property
    def tokens_per_round(self) -> list[float]:
        """By visible prefix: right slots behind it, and the bonus token."""
        return (1.0 + self.accepted / np.maximum(self.blocks, 1.0)).tolist()

    @property
    def mean(self) -> float:
        """Of `tokens_per_round` over the prefixes that are trained: two visible slots or more."""
        return float(np.mean(self.tokens_per_round[1:]))

    def as_json(self) -> dict[str, Any]:
        return {
            "visible": list(range(1, len(self.blocks) + 1)),
            "accuracy": self.accuracy,
            "tokens_per_round": self.tokens_per_round,
            "mean_tokens_per_round": self.mean,
            "blocks": self.blocks.astype(int).tolist(),
        }


def measure_prefixes(
    drafter: DFlashDrafter,
    features: FeatureStore,
    examples: Sequence[Example],
    indices: Sequence[int],
    *,
    anchors: int = 8,
) -> PrefixTable:
    """Up to ``anchors`` blocks, evenly spread, of each of ``examples[indices]``."""
    table = PrefixTable.empty(drafter.block_size)
    for part, context in contexts(drafter, features, examples, indices):
        group = [examples[index] for index in part]
        for visible in range(1, drafter.block_size):
            blocks = _blocks(group, drafter.block_size, anchors, visible)
            table = table.plus(_count(drafter, context, blocks, visible))
    return table


def _blocks(group: Sequence[Example], block_size: int, count: int, visible: int) -> Blocks:
    """Those of the same anchors for every ``visible``."""
    anchors = np.zeros((len(group), count), dtype=np.int32)
    keep = np.zeros(anchors.shape, dtype=np.bool_)
    for row, example in enumerate(group):
        eligible = eligible_anchors(example.loss_mask)
        chosen = eligible[np.linspace(0, eligible.size - 1, min(count, eligible.size)).astype(int)]
        anchors[row, : chosen.size], keep[row, : chosen.size] = chosen, True
    shown = np.full(anchors.shape, visible, dtype=np.int32)
    return blocks_at(group, anchors, keep, shown, BlockRecipe(block_size, count, gamma=1.0))


def _count(
    drafter: DFlashDrafter, context: list[KeysValues], blocks: Blocks, visible: int
) -> PrefixTable:
    slots = np.arange(drafter.block_size)
    tokens = np.where(slots < visible, blocks.labels, drafter.config.mask_token_id)
    rows = block_rows(drafter, context, mx.array(blocks.anchors), mx.array(tokens))
    rows = rows.reshape(-1, *rows.shape[2:])[:, visible:]  # [S * N, B - visible, H], the hidden
    labels = blocks.labels.reshape(-1, slots.size)
    # a selector goes on from the last visible token
    chosen = np.array(drafter.read(rows, mx.array(labels[:, visible - 1])).chain())
    seen = blocks.weights.reshape(-1, slots.size)[:, visible:] > 0
    right = (chosen == labels[:, visible:]) & seen
    usable = seen[:, 0]  # blocks whose first hidden slot has a label
    runs = np.cumprod(right, axis=1).sum(axis=1)
    table = PrefixTable.empty(slots.size)
    table.right[visible - 1, visible - 1 :] = right.sum(axis=0)
    table.seen[visible - 1, visible - 1 :] = seen.sum(axis=0)
    table.accepted[visible - 1], table.blocks[visible - 1] = runs.sum(), usable.sum()
    return table
