"""What a block is in training, it is in the engine: same rows, same proposals, over many rounds."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.base import LayerCache
from dflash_serve.training.step.attention import (
    block_rows,
    block_tokens,
    context_keys_values,
    proposals,
)
from tests.adapters.caches import EngineRows
from tests.training.dense_reference import Clean
from tests.training.worlds import BLOCK, DRAFTERS, MASK_ID, World, make_world, sequences

COMMITTED = ((3, 1, 6, 2, 5, 1), (7, 4, 1, 1, 3, 5))
"""Tokens that each row's context grows by in each round: the prompt, then 1 to a whole block."""
WIDTHS = (BLOCK, BLOCK, 4, BLOCK, 3, BLOCK)


pytestmark = pytest.mark.usefixtures("op_by_op")


class Serving:
    """Two rows in the engine's caches, driven through rounds of append, commit and draft."""

    def __init__(self, world: World, cleans: list[Clean]) -> None:
        self._drafter, self._cleans = world.drafter, cleans
        self._rows = EngineRows(world.drafter.cache_specs, len(cleans))

    @property
    def anchors(self) -> list[int]:
        return list(self._rows.lengths)

    def commit(self, counts: list[int]) -> None:
        """Write a whole block's features behind each row, of which only ``counts`` are right."""
        width = max(BLOCK, *counts)
        features = np.full((len(counts), width, self._cleans[0].taps.shape[1]), 9.0, np.float32)
        for row, (clean, count) in enumerate(zip(self._cleans, counts, strict=True)):
            start = self._rows.lengths[row]
            features[row, :count] = np.array(clean.taps[start : start + count])

        def forward(views: list[LayerCache]) -> None:
            self._drafter.append_context(mx.array(features), views)

        self._rows.run([width] * len(counts), width, forward, counts)

    def draft(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Logits and proposals of one round: [R, width - 1, V], [R, width - 1]."""
        anchors = mx.array(
            [clean.tokens[at] for clean, at in zip(self._cleans, self.anchors, strict=True)]
        )
        existing, none = [width] * len(self._cleans), [0] * len(self._cleans)

        def run(forward: Callable[[list[LayerCache]], mx.array]) -> np.ndarray:
            return np.array(self._rows.run(existing, width, forward, none))

        return (
            run(lambda views: self._drafter.block_logits(anchors, width, views)),
            run(lambda views: self._drafter.draft(anchors, width, views).chain()),
        )


@pytest.mark.parametrize("name", DRAFTERS)
def test_rounds_in_the_engines_caches_are_trained_blocks(name: str) -> None:
    """Six rounds with unlike acceptance equal training's forward and the dense reference."""
    world = make_world(name)
    cleans = [world.clean(example) for example in sequences()[:2]]
    serving = Serving(world, cleans)
    for counts, width in zip(zip(*COMMITTED, strict=True), WIDTHS, strict=True):
        serving.commit(list(counts))
        logits, chosen = serving.draft(width)
        for row, (clean, anchor) in enumerate(zip(cleans, serving.anchors, strict=True)):
            trained, proposed = _trained(world, clean, anchor, width)
            np.testing.assert_allclose(logits[row], trained, rtol=1e-4, atol=2e-5)
            np.testing.assert_array_equal(chosen[row], proposed)
            dense, wanted = _dense(world, clean, anchor, width)
            np.testing.assert_allclose(logits[row], dense, rtol=1e-4, atol=2e-5)
            assert chosen[row].tolist() == wanted
    assert serving.anchors == [18, 21]


def _trained(world: World, clean: Clean, anchor: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The block as training sees it: all of the sequence's features at once."""
    context = context_keys_values(world.drafter, clean.taps[None])
    labels = mx.array([clean.tokens[anchor : anchor + 1] + [0] * (width - 1)])
    tokens = block_tokens(MASK_ID, labels[None], mx.array([[1]]))
    at = mx.array([[anchor]])
    rows = block_rows(world.drafter, context, at, tokens)[0, 0, 1:]
    chosen = proposals(world.drafter, context, at[0], tokens[0])
    return np.array(world.drafter.logits(rows)), np.array(chosen[0])


def _dense(world: World, clean: Clean, anchor: int, width: int) -> tuple[np.ndarray, list[int]]:
    """The block by the dense reference, from scratch."""
    dense, rows = world.dense, [clean.tokens[anchor]] + [MASK_ID] * (width - 1)
    hidden = dense.block(world.weights, clean.taps[:anchor], rows)
    logits = np.array(dense.logits(hidden))[1:]
    if dense.config.selector_rank:
        return logits, dense.select(world.weights, hidden, rows[0])
    return logits, np.argmax(logits, axis=-1).tolist()
