"""Tokens per round of a drafter on known greedy answers, without running the target again.

A greedy answer is what verification would emit, so the rounds can be walked over it exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.training.attention import (
    KeysValues,
    block_hidden,
    block_logits,
    context_keys_values,
)
from dflash_serve.training.batches import padded_length
from dflash_serve.training.blocks import Example
from dflash_serve.training.features import FeatureStore, pad_tokens


@dataclass(frozen=True, slots=True)
class Walk:
    """The rounds of one answer. ``tokens`` excludes the first, which no round produced."""

    tokens: int
    rounds: int


def pooled(walks: Sequence[Walk]) -> float:
    """Tokens per round over all answers together, the bonus token included."""
    rounds = sum(walk.rounds for walk in walks)
    return sum(walk.tokens for walk in walks) / rounds if rounds else 0.0


def walk_answers(
    drafter: DFlashDrafter,
    features: FeatureStore,
    examples: Sequence[Example],
    width: int,
    *,
    batch: int = 16,
    bucket: int = 64,
) -> list[Walk]:
    """Draft and accept along each example's answer with blocks of ``width`` slots."""
    walks: list[Walk] = [Walk(0, 0)] * len(examples)
    order = sorted(range(len(examples)), key=lambda index: examples[index].length)
    for start in range(0, len(order), batch):
        indices = order[start : start + batch]
        length = padded_length(examples[indices[-1]].length, bucket)
        context = context_keys_values(drafter, features.batch(indices, length).taps)
        group = [examples[index] for index in indices]
        for index, walk in zip(indices, _walk(drafter, context, group, width), strict=True):
            walks[index] = walk
    return walks


def _walk(
    drafter: DFlashDrafter, context: list[KeysValues], examples: Sequence[Example], width: int
) -> list[Walk]:
    first = np.array([int(np.argmax(example.loss_mask)) for example in examples])
    last = np.array([example.length - 1 for example in examples])
    tokens = pad_tokens(examples, int(last.max()) + 1 + width)
    rows, slots = np.arange(len(examples)), np.arange(1, width)
    anchors, rounds = first.copy(), np.zeros(len(examples), dtype=np.int64)
    while (anchors < last).any():
        drafts = _draft(drafter, context, anchors, tokens[rows, anchors], width)
        right = drafts == tokens[rows[:, None], anchors[:, None] + slots]
        accepted = np.cumprod(right, axis=1).sum(axis=1)
        rounds += anchors < last
        anchors = np.minimum(anchors + accepted + 1, last)
    return [Walk(int(n), int(r)) for n, r in zip(last - first, rounds, strict=True)]


def _draft(
    drafter: DFlashDrafter,
    context: list[KeysValues],
    anchors: np.ndarray,
    anchor_tokens: np.ndarray,
    width: int,
) -> np.ndarray:
    """One block per sequence: [S] anchors -> [S, width - 1] proposals."""
    at = mx.array(anchors.astype(np.int32))[:, None]
    hidden = block_hidden(drafter, context, at, mx.array(anchor_tokens)[:, None], width)
    return np.array(mx.argmax(block_logits(drafter, hidden)[:, 0], axis=-1))
