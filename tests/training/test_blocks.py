import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_serve.training.blocks import (
    Example,
    blocks_at,
    draw_anchors,
    eligible_anchors,
    make_blocks,
    slot_weights,
)


def test_weights_decay_from_the_first_slot_after_the_anchor() -> None:
    assert slot_weights(4, 2.0) == pytest.approx([0.0, 1.0, np.exp(-0.5), np.exp(-1.0)])


def test_labels_and_weights_by_hand() -> None:
    tokens = np.array([5, 6, 7, 8, 9, 10], dtype=np.int32)
    example = Example(tokens, np.array([0, 0, 1, 1, 0, 1], dtype=bool))
    blocks = blocks_at(
        [example],
        np.array([[2, 4, 0]], dtype=np.int32),
        np.array([[True, True, False]]),
        np.array([0.0, 1.0, 0.5, 0.25], dtype=np.float32),
    )
    # anchor 2 -> 3, 4, 5; position 4 is not the answer. anchor 4 -> 5, then the end.
    assert blocks.labels.tolist() == [[[7, 8, 9, 10], [9, 10, 0, 0], [5, 6, 7, 8]]]
    assert blocks.weights.tolist() == [[[0, 1, 0, 0.25], [0, 1, 0, 0], [0, 0, 0, 0]]]


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
    blocks = make_blocks([example], [np.random.default_rng(seed)], count=7, block_size=5, gamma=4.0)
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
