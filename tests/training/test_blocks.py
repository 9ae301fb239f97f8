import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_serve.training.data.example import Example
from dflash_serve.training.step.blocks import (
    BlockRecipe,
    blocks_at,
    draw_anchors,
    draw_visible,
    eligible_anchors,
    make_blocks,
    slot_weights,
)


def test_weights_decay_from_the_first_slot_after_the_anchor() -> None:
    by_slot = slot_weights(4, 2.0, np.array([1, 3], dtype=np.int32))
    assert by_slot[0] == pytest.approx([0.0, 1.0, np.exp(-0.5), np.exp(-1.0)])
    assert by_slot[1] == pytest.approx([0.0, 0.0, 0.0, 1.0])


def test_visible_prefixes_follow_their_law() -> None:
    recipe = BlockRecipe(block_size=6, count=40_000, gamma=4.0, prefix_weight_base=0.5)
    drawn = draw_visible(recipe, np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=6) / drawn.size
    # P(i) for i = 2, 3, 4, 5 is 8 : 4 : 2 : 1
    assert shares == pytest.approx(np.array([0, 0, 8, 4, 2, 1]) / 15, abs=0.01)
    plain = draw_visible(BlockRecipe(6, 3, 4.0), np.random.default_rng(0))
    assert plain.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("block", "base"), [(2, 0.9), (8, 0.0), (8, -1.0)])
def test_a_prefix_that_cannot_be_drawn_is_refused(block: int, base: float) -> None:
    with pytest.raises(ValueError, match=f"not {block} and {base}"):
        BlockRecipe(block, 4, 7.0, base)


def test_labels_and_weights_by_hand() -> None:
    tokens = np.array([5, 6, 7, 8, 9, 10], dtype=np.int32)
    example = Example(tokens, np.array([0, 0, 1, 1, 0, 1], dtype=bool))
    blocks = blocks_at(
        [example],
        np.array([[2, 4, 0]], dtype=np.int32),
        np.array([[True, True, False]]),
        np.array([[1, 1, 1]], dtype=np.int32),
        BlockRecipe(block_size=4, count=3, gamma=1 / np.log(2)),  # halves from slot to slot
    )
    # anchor 2 -> 3, 4, 5; position 4 is not the answer. anchor 4 -> 5, then the end.
    assert blocks.labels.tolist() == [[[7, 8, 9, 10], [9, 10, 0, 0], [5, 6, 7, 8]]]
    wanted = np.array([[[0, 1, 0, 0.25], [0, 1, 0, 0], [0, 0, 0, 0]]])
    np.testing.assert_allclose(blocks.weights, wanted, rtol=1e-6)


def test_the_first_answer_token_is_an_anchor_and_the_last_is_not() -> None:
    mask = np.array([0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1], dtype=bool)
    assert eligible_anchors(mask).tolist() == [2, 3, 9]


masks = st.lists(st.booleans(), min_size=2, max_size=60).map(np.array)


@given(masks, st.integers(1, 20), st.integers(0, 2**32))
def test_anchors_are_distinct_sorted_eligible_and_of_constant_count(
    mask: np.ndarray, count: int, seed: int
) -> None:
    anchors, keep = draw_anchors(mask, count, np.random.default_rng(seed))
    eligible = set(eligible_anchors(mask).tolist())
    kept = anchors[keep].tolist()
    assert anchors.shape == keep.shape == (count,)
    assert len(kept) == min(count, len(eligible))
    assert kept == sorted(set(kept))
    assert set(kept) <= eligible
    assert not anchors[~keep].any()


@given(masks, st.integers(0, 2**32))
def test_every_kept_block_learns_something_and_no_other_does(mask: np.ndarray, seed: int) -> None:
    example = Example(np.arange(mask.size, dtype=np.int32), mask)
    blocks = make_blocks([example], [np.random.default_rng(seed)], BlockRecipe(5, 7, 4.0))
    assert ((blocks.weights.sum(axis=-1) > 0) == blocks.keep).all()
    counted = blocks.weights > 0
    positions = blocks.anchors[..., None] + np.arange(5)
    assert (blocks.labels == positions)[counted].all()
    assert mask[positions[counted]].all()


def test_each_epoch_draws_anew_and_a_seed_repeats() -> None:
    mask = np.ones(200, dtype=bool)

    def draw(*seed: int) -> list[int]:
        return draw_anchors(mask, 8, np.random.default_rng(seed))[0].tolist()

    assert draw(0, 1, 5) == draw(0, 1, 5)
    assert draw(0, 1, 5) != draw(0, 2, 5)
    assert draw(0, 1, 5) != draw(0, 1, 6)


def test_an_example_of_uneven_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one"):
        Example(np.zeros(3, dtype=np.int32), np.zeros(4, dtype=bool))
