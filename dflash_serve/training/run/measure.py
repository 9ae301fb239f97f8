"""Tokens per round of a drafter on known answers of the target, without running it again.

An answer is what verification emitted, greedy or sampled, and drafts do not depend on sampling: so
the rounds can be walked over it exactly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.kernels.block_attention import KeysValues
from dflash_serve.measure.errors import DataError
from dflash_serve.measure.figures import Acceptance, RoundCount
from dflash_serve.measure.intervals import Interval, conversation_sums, ratio_interval
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import FeatureStore, pad_tokens
from dflash_serve.training.run.loop import Measurement
from dflash_serve.training.run.trainer import Trainer
from dflash_serve.training.step.attention import context_keys_values, proposals
from dflash_serve.training.step.batches import padded_length

_BATCH, _BUCKET = 16, 64  # answers walked together, and what their length is padded to


@dataclass(frozen=True, slots=True)
class RoundsMeasure:
    """Tokens per round over the held-out ``examples`` of all processes; these are this one's.

    Blocks have ``width`` slots; None: as trained. ``names`` are those of the conversations that the
    examples of all processes are from: with them there is an interval.
    """

    trainer: Trainer
    features: FeatureStore
    examples: Sequence[Example]
    width: int | None = None
    names: Sequence[bytes] = ()
    name = "tokens per round"

    def __post_init__(self) -> None:
        trained = self.trainer.drafter.block_size
        if self.width is not None and not 2 <= self.width <= trained:
            raise DataError(
                f"--measure-block is {self.width}, but must be 2 to the drafter's block, {trained}"
            )

    def __call__(self) -> Measurement:
        drafter = self.trainer.drafter
        width = self.width or drafter.block_size
        walks = walk_answers(drafter, self.features, self.examples, width)
        found = Acceptance(*self.trainer.processes.total(Acceptance.of(walks).sums()))
        interval = self._interval(walks) if self.names else None
        return Measurement(found.tokens_per_round, found.tokens_per_round_pooled, interval)

    def _interval(self, walks: Sequence[RoundCount]) -> Interval | None:
        processes = self.trainer.processes
        own = self.names[processes.rank :: processes.size]
        sums = conversation_sums(walks, own, self.names)
        total = np.array(processes.total(sums.reshape(-1).tolist()))
        return ratio_interval(*total.reshape(sums.shape))


def contexts(
    drafter: DFlashDrafter, features: FeatureStore, examples: Sequence[Example]
) -> Iterator[tuple[list[int], list[KeysValues]]]:
    """All examples in batches of like length: which they are, and their context."""
    order = sorted(range(len(examples)), key=lambda index: examples[index].length)
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        length = padded_length(examples[part[-1]].length, _BUCKET)
        yield part, context_keys_values(drafter, features.batch(part, length).taps)


def walk_answers(
    drafter: DFlashDrafter, features: FeatureStore, examples: Sequence[Example], width: int
) -> list[RoundCount]:
    """Draft and accept along the answer of each example with blocks of ``width`` slots.

    Examples hold one answer each (`Answer.turns`), walked from its first token, which no round
    produces.
    """
    walks: dict[int, RoundCount] = {}
    for part, context in contexts(drafter, features, examples):
        group = [examples[index] for index in part]
        walks.update(zip(part, _walk(drafter, context, group, width), strict=True))
    return [walks[index] for index in range(len(examples))]


def _walk(
    drafter: DFlashDrafter, context: list[KeysValues], examples: Sequence[Example], width: int
) -> list[RoundCount]:
    """Each answer from its first token to its last: [first, last]."""
    first, last = np.array([np.flatnonzero(example.loss_mask)[[0, -1]] for example in examples]).T
    tokens = pad_tokens(examples, max(example.length for example in examples) + width)
    rows, slots = np.arange(len(examples)), np.arange(1, width)
    anchors, rounds = first.copy(), np.zeros(len(examples), dtype=np.int64)
    while (anchors < last).any():
        drafts = _draft(drafter, context, anchors, tokens[rows, anchors], width)
        right = drafts == tokens[rows[:, None], anchors[:, None] + slots]
        accepted = np.cumprod(right, axis=1).sum(axis=1)
        rounds += anchors < last
        anchors = np.minimum(anchors + accepted + 1, last)
    return [RoundCount(int(n), int(r)) for n, r in zip(last - first, rounds, strict=True)]


def _draft(
    drafter: DFlashDrafter,
    context: list[KeysValues],
    anchors: np.ndarray,
    anchor_tokens: np.ndarray,
    width: int,
) -> np.ndarray:
    """One block per sequence: [S] anchors -> [S, width - 1] proposals."""
    masks = np.full((len(anchors), width - 1), drafter.config.mask_token_id)
    tokens = np.concatenate([anchor_tokens[:, None], masks], axis=1).astype(np.int32)
    at = mx.array(anchors.astype(np.int32))
    return np.array(proposals(drafter, context, at, mx.array(tokens)))
