"""Measurements against a plain walk over one block at a time."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.dflash2 import DFlash2Drafter
from dflash_serve.adapters.qwen3 import Qwen3Target
from dflash_serve.measure.figures import RoundCount
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.measure import walk_answers
from dflash_serve.training.run.measure_prefix import PrefixTable, measure_prefixes
from dflash_serve.training.step.attention import (
    block_rows,
    block_tokens,
    context_keys_values,
    proposals,
)
from dflash_serve.training.step.blocks import BlockRecipe, blocks_at
from dflash_serve.training.step.loss import SlotRows, block_objective
from dflash_serve.training.step.objective import Objective

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


def test_an_answer_is_walked_round_by_round(
    make_drafter: MakeDrafter, target: Qwen3Target, chat: Example, examples: list[Example]
) -> None:
    """Of different lengths together; one of a single token has no round."""
    drafter = make_drafter()
    mask = np.arange(30)
    spans = ((4, 10), (14, 14), (20, 28))
    held = [Example(chat.tokens, (mask >= first) & (mask <= last)) for first, last in spans]
    features = FeatureStore(target, drafter.target_layer_ids, [examples[0], *held], 1 << 30)
    taps = features.batch([1], 64).taps
    turns = []
    for first, last in spans:
        anchor, rounds = first, 0
        while anchor < last:
            block = np.full(6, drafter.config.mask_token_id)
            block[0] = chat.tokens[anchor]
            right = [
                anchor + k <= last and guess == chat.tokens[anchor + k]
                for k, guess in enumerate(drafts(drafter, taps, block, anchor), start=1)
            ]
            anchor = min(last, anchor + 1 + (right.index(False) if False in right else len(right)))
            rounds += 1
        turns.append(RoundCount(last - first, rounds))
    assert walk_answers(drafter, features, [examples[0], *held], 6)[1:] == turns


def test_prefixes_are_counted_block_by_block(
    make_drafter: MakeDrafter, target: Qwen3Target, chat: Example
) -> None:
    drafter = make_drafter()
    features = FeatureStore(target, drafter.target_layer_ids, [chat], 1 << 30)
    taps = features.batch([0], 64).taps
    wanted = PrefixTable(np.zeros((5, 12)))
    all_right, all_seen, accepted, blocks = wanted.parts
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
                all_seen[visible - 1, slot - 1] += 1
                all_right[visible - 1, slot - 1] += slot in right
            run = 0
            while visible + run in right:
                run += 1
            accepted[visible - 1] += run
            blocks[visible - 1] += visible in counted
    table = measure_prefixes(drafter, features, [chat], anchors=99)
    assert np.array_equal(table.counts, wanted.counts)
    assert PrefixTable(2 * table.counts).accuracy == table.accuracy
    assert table.mean == pytest.approx(np.mean(table.tokens_per_round[1:]))


def test_a_selector_goes_on_from_the_last_visible_token(
    make_drafter: MakeDrafter, target: Qwen3Target, chat: Example
) -> None:
    """The first hidden slot is guessed as in training: from the true token before it."""
    drafter = make_drafter(selector_rank=8, selector_top_k=61, conv_group_size=8)
    assert isinstance(drafter, DFlash2Drafter)
    selector = drafter.model.candidate_selector
    selector.predecessor_codebook = mx.random.normal(selector.predecessor_codebook.shape)
    liked = mx.arange(61)[:, None] < 3  # the sequence holds tokens 0 to 2 only
    selector.successor_codebook = mx.where(liked, 30.0 * selector.successor_codebook, 0.0)
    features = FeatureStore(target, drafter.target_layer_ids, [chat], 1 << 30)
    table = measure_prefixes(drafter, features, [chat], anchors=14)
    context = context_keys_values(drafter, features.batch([0], 64).taps)
    anchors = np.array([[*range(4, 10), *range(20, 28)]], dtype=np.int32)
    found = []
    for visible in range(1, 6):
        shown = np.full(anchors.shape, visible, dtype=np.int32)
        recipe = BlockRecipe(6, anchors.size, 1.0)
        blocks = blocks_at([chat], anchors, np.ones(anchors.shape, bool), shown, recipe)
        labels = mx.array(blocks.labels)
        tokens = block_tokens(drafter.config.mask_token_id, labels, mx.array(shown))
        rows = block_rows(drafter, context, mx.array(anchors), tokens)[0, :, 1:]
        slots = SlotRows(rows, labels[0], mx.array(blocks.weights[0]), mx.array(shown[0]), None)
        sums = block_objective(drafter, Objective(), slots)
        found.append(float(sums["right"][visible - 1].item()))
    assert sum(found) > 5
    assert np.diag(table.parts[0]).tolist() == found
