"""What was trained is what runs: training's forward against the drafter's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import load_drafter
from dflash_serve.adapters.qwen3 import Qwen3Target
from dflash_serve.measure.figures import Acceptance
from dflash_serve.training.data.example import Example
from dflash_serve.training.drafter.initialise import (
    DrafterShape,
    drafter_config,
    new_drafter,
)
from dflash_serve.training.features.store import FeatureStore, target_features
from dflash_serve.training.run.measure import walk_answers
from dflash_serve.training.step.attention import block_rows, context_keys_values
from tests.adapters.dense import DenseRows
from tests.training.conftest import TARGET_CONFIG
from tests.training.files import export_drafter

MakeDrafter = Callable[..., DFlashDrafter]


@pytest.mark.parametrize(
    "shape",
    [{}, {"sliding_window": 4}, {"sliding_window": 4, "config": {"is_causal": False}}],
    ids=["full", "sliding", "sliding bidirectional"],
)
def test_a_trained_block_is_the_drafted_block(
    shape: dict[str, Any], make_drafter: MakeDrafter, target: Qwen3Target
) -> None:
    """Context arrives round by round, as in serving; blocks may be shorter than in training."""
    drafter = make_drafter(**shape)
    tokens = mx.array(np.random.default_rng(0).integers(0, 50, (1, 24)))
    taps = target_features(target, tokens, drafter.target_layer_ids).taps
    context = context_keys_values(drafter, taps)
    held = DenseRows(drafter.cache_specs, 1)

    def append(start: int, end: int) -> None:
        held.run(
            [end - start],
            end - start,
            lambda views: drafter.append_context(taps[:, start:end], views),
        )

    def draft(anchor: int, width: int) -> mx.array:
        return held.run(
            [width],
            width,
            lambda views: drafter.block_logits(tokens[:, anchor], width, views),
            keep=[0],
        )

    start = 0
    for anchor, width in ((5, 6), (6, 4), (11, 6), (18, 2)):
        append(start, anchor)
        drafted = draft(anchor, width)
        block = [[[tokens[0, anchor].item(), *[drafter.config.mask_token_id] * (width - 1)]]]
        rows = block_rows(drafter, context, mx.array([[anchor]]), mx.array(block))
        trained = drafter.logits(rows[:, 0, 1:])
        np.testing.assert_allclose(np.array(trained), np.array(drafted), rtol=1e-5, atol=1e-5)
        start = anchor


def test_an_export_loads_into_the_same_drafter(
    tmp_path: Path, target: Qwen3Target, examples: list[Example]
) -> None:
    config = drafter_config(
        {**TARGET_CONFIG, "rope_theta": None, "rope_parameters": {"rope_theta": 10000.0}},
        DrafterShape(60, layers=2, block_size=4, sliding_window=9),
    )
    drafter = new_drafter(config, target, seed=5)
    export_drafter(tmp_path, config, drafter.model)
    export_drafter(tmp_path, config, drafter.model)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = load_drafter(tmp_path, target)
    assert isinstance(loaded, DFlashDrafter)
    assert loaded.config == drafter.config
    taps = target_features(
        target, mx.array(examples[0].tokens)[None], drafter.target_layer_ids
    ).taps

    def logits(of: DFlashDrafter) -> np.ndarray:
        context = context_keys_values(of, taps)
        tokens = mx.array([[[1, 60, 60, 60], [2, 60, 60, 60]]])
        return np.array(of.logits(block_rows(of, context, mx.array([[7, 20]]), tokens)))

    np.testing.assert_array_equal(logits(loaded), logits(drafter))


def test_walks_count_rounds_as_serving_does(make_drafter: MakeDrafter, target: Qwen3Target) -> None:
    """A drafter that is never right needs a round per token; one that always is, one per block."""
    drafter = make_drafter()
    prompt, answer = 4, 13
    tokens = np.full(prompt + answer, 50, dtype=np.int32)
    wrong = Example(tokens, np.arange(tokens.size) >= prompt)
    drafter.logits = lambda rows: mx.zeros((*rows.shape[:-1], 61))  # type: ignore[method-assign]
    right = Example(np.zeros_like(tokens), wrong.loss_mask)
    store = FeatureStore(target, drafter.target_layer_ids, [wrong, right], 0)
    walks = walk_answers(drafter, store, [wrong, right], 6)
    assert [(walk.tokens, walk.rounds) for walk in walks] == [(12, 12), (12, 2)]
    assert Acceptance.of(walks).tokens_per_round == pytest.approx((12 / 12 + 12 / 2) / 2)
    assert Acceptance.of(walks).tokens_per_round_pooled == pytest.approx(24 / 14)
