"""Measurements against a plain walk over one block at a time."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.qwen3 import Qwen3Target
from dflash_serve.training.attention import context_keys_values, proposals
from dflash_serve.training.blocks import Example
from dflash_serve.training.features import FeatureStore
from dflash_serve.training.measure import Walk, walk_answers
from dflash_serve.training.measure_prefix import PrefixTable, measure_prefixes

MakeDrafter = Callable[..., DFlashDrafter]


@pytest.fixture
def chat() -> Example:
    """Three answers of 7, 1 and 9 tokens in one sequence of few different tokens."""
    tokens = np.random.default_rng(8).integers(0, 3, 30).astype(np.int32)
    mask = np.zeros(30, dtype=bool)
    mask[4:11] = mask[14:15] = mask[20:29] = True
    return Example(tokens, mask)


def drafts(drafter: DFlashDrafter, taps: mx.array, tokens: np.ndarray, anchor: int) -> np.ndarray:
    context = context_keys_values(drafter, taps)
    block = mx.array(tokens[None].astype(np.int32))
    return np.array(proposals(drafter, context, mx.array([anchor], mx.int32), block))[0]


def test_each_turn_is_walked_by_itself(
    make_drafter: MakeDrafter, target: Qwen3Target, chat: Example, examples: list[Example]
) -> None:
    drafter, held = make_drafter(), [examples[0], chat]
    features = FeatureStore(target, drafter.target_layer_ids, held, 1 << 30)
    taps = features.batch([1], 64).taps
    tokens, rounds = 0, 0
    for first, last in ((4, 10), (14, 14), (20, 28)):
        anchor = first
        while anchor < last:
            block = np.full(6, drafter.config.mask_token_id)
            block[0] = chat.tokens[anchor]
            right = [
                anchor + k <= last and guess == chat.tokens[anchor + k]
                for k, guess in enumerate(drafts(drafter, taps, block, anchor), start=1)
            ]
            anchor = min(last, anchor + 1 + (right.index(False) if False in right else len(right)))
            rounds += 1
        tokens += last - first
    assert walk_answers(drafter, features, held, 6, indices=[1]) == [Walk(tokens, rounds)]
    assert walk_answers(drafter, features, held, 6)[1] == Walk(tokens, rounds)


def test_prefixes_are_counted_block_by_block(
    make_drafter: MakeDrafter, target: Qwen3Target, chat: Example, examples: list[Example]
) -> None:
    drafter, held = make_drafter(), [examples[0], chat]
    features = FeatureStore(target, drafter.target_layer_ids, held, 1 << 30)
    taps = features.batch([1], 64).taps
    wanted = PrefixTable.empty(6)
    for anchor in (*range(4, 10), *range(20, 28)):
        for visible in range(1, 6):
            block = np.full(6, drafter.config.mask_token_id)
            shown = [at for at in range(visible) if anchor + at < 30]
            block[shown] = chat.tokens[[anchor + at for at in shown]]
            guesses = [-1, *drafts(drafter, taps, block, anchor)]
            counted = [
                slot for slot in range(visible, 6)
                if anchor + slot < 30 and chat.loss_mask[anchor + slot]
            ]  # fmt: skip
            right = [slot for slot in counted if guesses[slot] == chat.tokens[anchor + slot]]
            for slot in counted:
                wanted.seen[visible - 1, slot - 1] += 1
                wanted.right[visible - 1, slot - 1] += slot in right
            run = 0
            while visible + run in right:
                run += 1
            wanted.accepted[visible - 1] += run
            wanted.blocks[visible - 1] += visible in counted
    table = measure_prefixes(drafter, features, held, [1], anchors=99)
    for name in ("right", "seen", "accepted", "blocks"):
        assert np.array_equal(getattr(table, name), getattr(wanted, name)), name
    again = PrefixTable.from_flat(table.plus(wanted).flat(), 6)
    assert np.array_equal(again.right, 2 * table.right)
    assert again.accuracy == table.accuracy
    assert table.mean == pytest.approx(np.mean(table.tokens_per_round[1:]))
