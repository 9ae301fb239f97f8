"""Tokens per round of a drafter on known answers of the target, without running it again.

An answer is what verification emitted, greedy or sampled, and drafts do not depend on sampling: so
the rounds can be walked over it exactly.
"""

from collections.abc import Iterable, Iterator, Sequence

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.kernels.block_attention import KeysValues
from dflash_serve.measure.figures import RoundCount
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import FeatureStore, pad_tokens
from dflash_serve.training.step.attention import context_keys_values, proposals
from dflash_serve.training.step.batches import padded_length

_BATCH, _BUCKET = 16, 64  # answers walked together, and what their length is padded to


def contexts(
    drafter: DFlashDrafter,
    features: FeatureStore,
    examples: Sequence[Example],
    indices: Iterable[int],
) -> Iterator[tuple[list[int], list[KeysValues]]]:
    """``examples[indices]`` in batches of like length: which they are, and their context."""
    order = sorted(indices, key=lambda index: examples[index].length)
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        length = padded_length(examples[part[-1]].length, _BUCKET)
        yield part, context_keys_values(drafter, features.batch(part, length).taps)


def walk_answers(
    drafter: DFlashDrafter,
    features: FeatureStore,
    examples: Sequence[Example],
    width: int,
    *,
    indices: Sequence[int] | None = None,
) -> list[RoundCount]:
    """Draft and accept along the answers of ``examples[indices]``, or of all, in their order.

    Blocks have ``width`` slots. Each turn of a conversation is an answer that is walked by itself,
    from its first token, which no round produces.
    """
    wanted = range(len(examples)) if indices is None else indices
    walks: dict[int, list[RoundCount]] = {}
    for part, context in contexts(drafter, features, examples, wanted):
        group = [examples[index] for index in part]
        walks.update(zip(part, _walk(drafter, context, group, width), strict=True))
    return [turn for index in wanted for turn in walks[index]]


def _walk(
    drafter: DFlashDrafter, context: list[KeysValues], examples: Sequence[Example], width: int
) -> list[list[RoundCount]]:
    """Per example its turns."""
    answers = [_answers(example) for example in examples]
    walks: list[list[RoundCount]] = [[] for _ in examples]
    for turn in range(max(len(spans) for spans in answers)):
        spans = [spans[turn] if turn < len(spans) else (0, 0) for spans in answers]
        counts = _walk_spans(drafter, context, examples, spans, width)
        for row, (own, count) in enumerate(zip(walks, counts, strict=True)):
            if turn < len(answers[row]):
                own.append(count)
    return walks


def _answers(example: Example) -> list[tuple[int, int]]:
    """First and last position of each run of answer tokens."""
    edges = np.diff(np.concatenate([[0], example.loss_mask.astype(np.int8), [0]]))
    firsts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(a), int(b) - 1) for a, b in zip(firsts, ends, strict=True)]


def _walk_spans(
    drafter: DFlashDrafter,
    context: list[KeysValues],
    examples: Sequence[Example],
    spans: Sequence[tuple[int, int]],
    width: int,
) -> list[RoundCount]:
    """One answer per example, from its first token to its last: [first, last]."""
    first, last = np.array(spans).T
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
