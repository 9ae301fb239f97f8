"""What a training block must not see: the tokens to predict, and its neighbours."""

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.training.step.attention import block_rows, block_tokens, context_keys_values
from tests.training.worlds import BLOCK, DRAFTERS, MASK_ID, World, make_world, sequences

ANCHORS = (4, 9, 9, 20)
"""Blocks attended one by one, and all at once."""

Array = np.ndarray


pytestmark = pytest.mark.usefixtures("op_by_op")


def taps_and_labels(world: World) -> tuple[mx.array, mx.array]:
    """[1, 30, K * H] features of a sequence, [1, 4, B] its tokens from each of `ANCHORS`."""
    example = sequences()[0]
    at = np.minimum(np.array(ANCHORS)[:, None] + np.arange(BLOCK), example.length - 1)
    return world.clean(example).taps[None], mx.array(example.tokens[at])[None]


def rows_of(
    world: World,
    taps: mx.array,
    tokens: mx.array,
    anchors: tuple[int, ...] = ANCHORS,
) -> mx.array:
    """[N, B, H] of one sequence."""
    drafter = world.drafter
    context = context_keys_values(drafter, taps)
    return block_rows(drafter, context, mx.array([anchors]), tokens)[0]


def masked(labels: mx.array, visible: tuple[int, ...] = (1, 1, 1, 1)) -> mx.array:
    return block_tokens(MASK_ID, labels, mx.array([visible]))


@pytest.mark.parametrize("name", DRAFTERS)
def test_features_at_and_after_the_anchor_matter_to_no_block(name: str) -> None:
    world = make_world(name)
    taps, labels = taps_and_labels(world)
    tokens = masked(labels)
    exact = np.array(rows_of(world, taps, tokens))
    for block, anchor in enumerate(ANCHORS):
        late = mx.arange(taps.shape[1])[None, :, None] >= anchor
        changed = np.array(rows_of(world, mx.where(late, 50.0, taps), tokens))
        for other, at in enumerate(ANCHORS):
            assert np.array_equal(changed[other], exact[other]) == (at <= anchor), (block, other)


@pytest.mark.parametrize("name", DRAFTERS)
def test_no_gradient_flows_to_features_at_and_after_the_anchor(name: str) -> None:
    world = make_world(name)
    taps, labels = taps_and_labels(world)
    for block, anchor in enumerate(ANCHORS):
        slopes = mx.grad(lambda t, b=block: mx.square(rows_of(world, t, masked(labels))[b]).sum())
        found = np.abs(np.array(slopes(taps)[0])).max(axis=-1)  # [T]
        assert not found[anchor:].any()
        assert found[anchor - 1] > 0
        windows = world.drafter.config.layer_windows
        if None not in windows:  # no slot reaches further back than slot 0
            assert not found[: max(0, anchor - windows[0] + 1)].any()
        else:
            assert found[0] > 0


@pytest.mark.parametrize("name", DRAFTERS)
def test_a_row_matters_to_its_own_block_as_far_as_its_layers_look(name: str) -> None:
    """Bidirectional layers show slot 3's row to slot 1; causal layers to slots from 3 on only."""
    world = make_world(name)
    taps, labels = taps_and_labels(world)
    tokens = masked(labels)
    exact = np.array(rows_of(world, taps, tokens))
    causal = all(world.drafter.config.layer_causal)
    for slot in range(BLOCK):
        here = (mx.arange(4)[:, None] == 1) & (mx.arange(BLOCK) == slot)
        changed = np.array(rows_of(world, taps, mx.where(here, 17, tokens)))
        differs = (changed != exact).any(axis=-1)  # [N, B]
        assert not np.delete(differs, 1, axis=0).any()
        assert not causal or not differs[1, :slot].any()
        assert differs[1, slot:].all() if causal else differs[1].all()


@pytest.mark.parametrize("name", DRAFTERS)
def test_neighbouring_blocks_never_matter(name: str) -> None:
    """Neither what they hold nor where they are, nor how many there are."""
    world = make_world(name)
    taps, labels = taps_and_labels(world)
    tokens = masked(labels)
    exact = np.array(rows_of(world, taps, tokens))
    others = mx.where(mx.arange(4)[:, None] == 1, tokens, 23)
    moved = rows_of(world, taps, others, (28, 9, 1, 8))
    np.testing.assert_array_equal(np.array(moved[1]), exact[1])
    alone = rows_of(world, taps, tokens[:, 1:2], (9,))
    np.testing.assert_allclose(np.array(alone[0]), exact[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["v1", "sliding", "dflash2"])
def test_visible_tokens_matter_to_their_own_block_alone(name: str) -> None:
    """A VP-drafter's real tokens are seen; those that it has to predict are not."""
    world = make_world(name)
    taps, labels = taps_and_labels(world)
    visible = (2, 4, 3, 2)
    exact = np.array(rows_of(world, taps, masked(labels, visible)))
    assert (exact != np.array(rows_of(world, taps, masked(labels)))).any(axis=(1, 2)).all()
    for slot in range(1, BLOCK):
        here = (mx.arange(4)[:, None] == 1) & (mx.arange(BLOCK) == slot)
        changed = masked(mx.where(here, (labels + 7) % 50, labels), visible)
        differs = (np.array(rows_of(world, taps, changed)) != exact).any(axis=(1, 2))
        assert differs.tolist() == [False, slot < visible[1], False, False]
