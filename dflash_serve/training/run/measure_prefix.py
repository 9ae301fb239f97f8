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
from rich.table import Table

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.kernels.block_attention import KeysValues
from dflash_serve.measure.tables import table
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.loop import Measurement
from dflash_serve.training.run.measure import contexts
from dflash_serve.training.run.trainer import Trainer
from dflash_serve.training.step.attention import block_rows
from dflash_serve.training.step.blocks import BlockRecipe, Blocks, blocks_at, eligible_anchors

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PrefixTable:
    """Counts over blocks; row i is ``visible`` = i + 1, 1 to B - 1. Tables add up by ``counts``.

    counts: [B - 1, 2 * B]: for each slot from 1 how often it was right, then how often it was seen,
    then the slots from ``visible`` on before the first wrong one, and the blocks.
    """

    counts: Counts

    @property
    def parts(self) -> list[Counts]:
        """right and seen [B - 1, B - 1], accepted and blocks [B - 1, 1]; parts of ``counts``."""
        rows = len(self.counts)
        return np.split(self.counts, [rows, 2 * rows, 2 * rows + 1], axis=1)

    @property
    def accuracy(self) -> list[list[float | None]]:
        """[visible - 1][slot - 1]; None where a slot is visible or was never seen."""
        right, seen, _, _ = self.parts
        return [
            [float(r / s) if s else None for r, s in zip(*rows, strict=True)]
            for rows in zip(right, seen, strict=True)
        ]

    @property
    def tokens_per_round(self) -> list[float]:
        """By visible prefix: right slots behind it, and the bonus token."""
        _, _, accepted, blocks = self.parts
        return (1.0 + accepted / np.maximum(blocks, 1.0))[:, 0].tolist()

    @property
    def mean(self) -> float:
        """Of `tokens_per_round` over the prefixes that are trained: two visible slots or more."""
        return float(np.mean(self.tokens_per_round[1:]))

    def as_json(self) -> dict[str, Any]:
        return {
            "visible": list(range(1, len(self.counts) + 1)),
            "accuracy": self.accuracy,
            "tokens_per_round": self.tokens_per_round,
            "mean_tokens_per_round": self.mean,
            "blocks": self.counts[:, -1].astype(int).tolist(),
        }


@dataclass(frozen=True, slots=True)
class PrefixMeasure:
    """Tokens per round behind a visible prefix, the mean over its lengths, as `RoundsMeasure`."""

    trainer: Trainer
    features: FeatureStore
    examples: Sequence[Example]
    name = "tokens per round behind a visible prefix"

    def __call__(self) -> Measurement:
        counts = measure_prefixes(self.trainer.drafter, self.features, self.examples).counts
        total = self.trainer.processes.total(counts.reshape(-1).tolist())
        table = PrefixTable(np.array(total).reshape(counts.shape))
        return Measurement(table.mean, detail=table.as_json())


def prefix_table(detail: dict[str, Any]) -> Table:
    """Accuracy by visible slots (rows) and slot (columns), for a terminal."""
    columns = ("visible", *map(str, detail["visible"]), "tokens per round")
    lines = zip(detail["visible"], detail["accuracy"], detail["tokens_per_round"], strict=True)
    rows = [
        (visible, *("" if share is None else share for share in shares), expected)
        for visible, shares, expected in lines
    ]
    return table("accuracy by visible slots and slot", columns, rows)


def measure_prefixes(
    drafter: DFlashDrafter,
    features: FeatureStore,
    examples: Sequence[Example],
    *,
    anchors: int = 8,
) -> PrefixTable:
    """Up to ``anchors`` blocks, evenly spread, of each example."""
    table = PrefixTable(np.zeros((drafter.block_size - 1, 2 * drafter.block_size)))
    for part, context in contexts(drafter, features, examples):
        group = [examples[index] for index in part]
        for visible in range(1, drafter.block_size):
            blocks = _blocks(group, drafter.block_size, anchors, visible)
            _count(drafter, context, blocks, visible, table)
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
    drafter: DFlashDrafter,
    context: list[KeysValues],
    blocks: Blocks,
    visible: int,
    table: PrefixTable,
) -> None:
    """Add blocks of which ``visible`` slots are shown to the table."""
    slots = np.arange(drafter.block_size)
    tokens = np.where(slots < visible, blocks.labels, drafter.config.mask_token_id)
    rows = block_rows(drafter, context, mx.array(blocks.anchors), mx.array(tokens))
    rows = rows.reshape(-1, *rows.shape[2:])[:, visible:]  # [S * N, B - visible, H], the hidden
    labels = blocks.labels.reshape(-1, slots.size)
    # a selector goes on from the last visible token
    chosen = np.array(drafter.read(rows, mx.array(labels[:, visible - 1])).chain())
    seen = blocks.weights.reshape(-1, slots.size)[:, visible:] > 0
    right = (chosen == labels[:, visible:]) & seen
    rights, seens, accepted, found = (part[visible - 1] for part in table.parts)
    rights[visible - 1 :] += right.sum(axis=0)
    seens[visible - 1 :] += seen.sum(axis=0)
    accepted += np.cumprod(right, axis=1).sum()
    found += seen[:, 0].sum()  # blocks whose first hidden slot has a label
