"""The drafter over slot caches equals a dense reference that starts afresh every round."""

import json
import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import AdapterError, LayerCache
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import read_drafter_config
from tests.adapters.caches import EngineRows, Rows
from tests.adapters.dense import DenseRows
from tests.adapters.reference import Array, LayerKind, Reference
from tests.tiny import DRAFTER, TARGET, tiny_pair

BLOCK, MASK, FEATURES = 6, 95, 3 * 64
FULL, SLIDING = "full_attention", "sliding_attention"


def drafter_of(directory: Path, **changes: Any) -> DFlashDrafter:
    """A loaded drafter whose weights are scaled up, so that masks and positions matter."""
    drafter = tiny_pair(directory, drafter={"block_size": BLOCK} | changes)[1]
    assert isinstance(drafter, DFlashDrafter)
    key = mx.random.key(4)
    grown = [
        (name, 3 * value if value.ndim > 1 else 0.5 + mx.random.uniform(shape=value.shape, key=key))
        for name, value in tree_flatten(drafter.model.parameters())
    ]
    drafter.model.load_weights(grown)
    return drafter


def reference_of(drafter: DFlashDrafter, *kinds: LayerKind, **scalings: float) -> Reference:
    weights = {
        name: np.array(value, dtype=np.float64)
        for name, value in tree_flatten(drafter.model.parameters())
    }
    table = drafter.embed_block(mx.arange(TARGET["vocab_size"])) / scalings.get("embed_scale", 1.0)
    return Reference(weights, DRAFTER, np.array(table, dtype=np.float64), kinds, **scalings)


def block_logits(
    drafter: DFlashDrafter, rows: Rows, anchors: list[int], blocks: list[int], width: int = BLOCK
) -> Array:
    tokens = mx.array(anchors, dtype=mx.int32)

    def forward(views: list[LayerCache]) -> mx.array:
        return drafter.block_logits(tokens, width, views)

    logits = rows.run(blocks, width, forward, keep=[0] * len(blocks))
    return np.array(logits, dtype=np.float64)


def append(drafter: DFlashDrafter, rows: Rows, features: list[Array], committed: list[int]) -> None:
    """Write ``features[r]`` after each row, then commit the first ``committed[r]`` of them."""
    width = max(map(len, features))
    padded = np.zeros((len(features), width, FEATURES), dtype=np.float32)
    for row, given in enumerate(features):
        padded[row, : len(given)] = given

    def forward(views: list[LayerCache]) -> None:
        drafter.append_context(mx.array(padded), views)

    rows.run([len(given) for given in features], width, forward, committed)


KINDS: dict[str, tuple[dict[str, Any], tuple[LayerKind, LayerKind]]] = {
    "full": ({}, (LayerKind(), LayerKind())),
    "full causal": ({"is_causal": True}, (LayerKind(None, True), LayerKind(None, True))),
    "causal head": (
        {"dflash_config": DRAFTER["dflash_config"] | {"causal_head": True}},
        (LayerKind(None, True), LayerKind(None, True)),
    ),
    "sliding": (
        {"layer_types": [SLIDING, SLIDING], "sliding_window": 9},
        (LayerKind(9, True), LayerKind(9, True)),
    ),
    "sliding, not causal": (
        {"layer_types": [SLIDING, SLIDING], "sliding_window": 9, "is_causal": False},
        (LayerKind(9), LayerKind(9)),
    ),
    "mixed": (
        {"layer_types": [SLIDING, FULL], "sliding_window": 7},
        (LayerKind(7, True), LayerKind()),
    ),
    "mixed, window beyond the context": (
        {"layer_types": [FULL, SLIDING], "sliding_window": 300},
        (LayerKind(), LayerKind(300, True)),
    ),
}


@pytest.mark.parametrize("make_rows", [EngineRows, DenseRows])
@pytest.mark.parametrize("name", KINDS)
def test_rounds_equal_a_dense_reference(
    tmp_path: Path, name: str, make_rows: type[EngineRows] | type[DenseRows]
) -> None:
    """Context grows by one token to several rings, below, at and beyond the window."""
    changes, kinds = KINDS[name]
    drafter = drafter_of(tmp_path, **changes)
    reference = reference_of(drafter, *kinds)
    rng = np.random.default_rng(3)
    rows = make_rows(drafter.cache_specs, 1)
    context = np.zeros((0, FEATURES))
    sizes = []
    for committed in (4, 1, 3, 1, 6, 2, 110, 4, 6, 150, 1):
        verified = rng.normal(size=(max(committed, BLOCK), FEATURES))
        append(drafter, rows, [verified], [committed])
        context = np.concatenate([context, verified[:committed]])
        sizes.append(len(context))
        anchor = int(rng.integers(95))
        got = block_logits(drafter, rows, [anchor], [BLOCK])
        want = reference.logits(context, anchor, BLOCK)
        np.testing.assert_allclose(got[0], want, atol=2e-3)
        assert np.abs(want).max() > 1
    assert sizes == [4, 5, 8, 9, 15, 17, 127, 131, 137, 287, 288]


@pytest.mark.parametrize("name", ["full", "full causal", "sliding", "sliding, not causal", "mixed"])
def test_ragged_rows_equal_a_dense_reference(tmp_path: Path, name: str) -> None:
    """Rows of unlike length, acceptance and block share forwards; padding is never seen."""
    changes, kinds = KINDS[name]
    drafter = drafter_of(tmp_path, **changes)
    reference = reference_of(drafter, *kinds)
    rng, draw = np.random.default_rng(5), random.Random(5)
    rows = EngineRows(drafter.cache_specs, 3)
    contexts = [np.zeros((0, FEATURES))] * 3
    committed = [9, 1, 5]
    features = [rng.normal(size=(n, FEATURES)) for n in committed]
    for _ in range(5):
        append(drafter, rows, features, committed)
        contexts = [
            np.concatenate([old, new[:n]])
            for old, new, n in zip(contexts, features, committed, strict=True)
        ]
        blocks = [BLOCK, draw.randint(2, 5), 1]
        anchors = [draw.randrange(95) for _ in range(3)]
        got = block_logits(drafter, rows, anchors, blocks)
        for row, block in enumerate(blocks):
            want = reference.logits(contexts[row], anchors[row], block)
            np.testing.assert_allclose(got[row, : block - 1], want, atol=2e-3)
        features = [rng.normal(size=(n, FEATURES)) for n in blocks]
        committed = [draw.randint(1, block) for block in blocks]


def test_scaled_embedding_multiplied_and_capped_logits(tmp_path: Path) -> None:
    scalings = {
        "input_embedding_scale": 3.0,
        "output_multiplier": 0.25,
        "final_logit_softcapping": 2.0,
    }
    drafter = drafter_of(tmp_path, dflash_config=DRAFTER["dflash_config"] | scalings)
    reference = reference_of(
        drafter, LayerKind(), LayerKind(), embed_scale=3.0, multiplier=0.25, cap=2.0
    )
    features = np.random.default_rng(1).normal(size=(5, FEATURES))
    rows = EngineRows(drafter.cache_specs, 1)
    append(drafter, rows, [features], [5])
    got = block_logits(drafter, rows, [7], [BLOCK])
    np.testing.assert_allclose(got[0], reference.logits(features, 7, BLOCK), atol=2e-3)
    assert 1 < np.abs(got).max() <= 2


@pytest.mark.parametrize(("name", "changes_slot_1"), [("full", True), ("sliding", False)])
def test_only_bidirectional_layers_let_slot_1_see_later_slots(
    tmp_path: Path, name: str, changes_slot_1: bool
) -> None:
    drafter = drafter_of(tmp_path, **KINDS[name][0])
    rows = EngineRows(drafter.cache_specs, 1)
    append(drafter, rows, [np.random.default_rng(2).normal(size=(5, FEATURES))], [5])
    whole = block_logits(drafter, rows, [7], [BLOCK])[0, 0]
    short = block_logits(drafter, rows, [7], [2])[0, 0]
    assert (np.abs(whole - short).max() > 1e-3) == changes_slot_1


def test_features_at_and_after_the_anchor_do_not_reach_the_block(tmp_path: Path) -> None:
    drafter = drafter_of(tmp_path)
    rng = np.random.default_rng(6)
    seen = rng.normal(size=(5, FEATURES))
    outputs = []
    for unseen in (rng.normal(size=(4, FEATURES)), rng.normal(size=(4, FEATURES))):
        rows = EngineRows(drafter.cache_specs, 1)
        append(drafter, rows, [np.concatenate([seen, unseen])], [5])
        outputs.append(block_logits(drafter, rows, [7], [BLOCK]))
    np.testing.assert_array_equal(*outputs)


def test_proposals_are_the_best_tokens_of_the_block(tmp_path: Path) -> None:
    drafter = drafter_of(tmp_path)
    rows = EngineRows(drafter.cache_specs, 2)
    rng = np.random.default_rng(8)
    append(drafter, rows, [rng.normal(size=(n, FEATURES)) for n in (5, 2)], [5, 2])
    logits = block_logits(drafter, rows, [7, 8], [BLOCK, BLOCK])
    drafts = rows.run(
        [BLOCK] * 2,
        BLOCK,
        lambda views: drafter.draft(mx.array([7, 8], dtype=mx.int32), BLOCK, views).chain(),
    )
    assert drafts.dtype == mx.int32
    np.testing.assert_array_equal(np.array(drafts), logits.argmax(-1))


def test_yarn_scales_the_rotation(tmp_path: Path) -> None:
    """Twice the factor is another drafter; a factor of one is the plain rotation."""
    outputs = []
    for number, factor in enumerate((None, 1.0, 8.0)):
        yarn = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 64}
        drafter = drafter_of(tmp_path / str(number), rope_scaling=yarn if factor else None)
        rows = EngineRows(drafter.cache_specs, 1)
        append(drafter, rows, [np.random.default_rng(1).normal(size=(40, FEATURES))], [40])
        outputs.append(block_logits(drafter, rows, [7], [BLOCK]))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=2e-3)
    assert np.abs(outputs[0] - outputs[2]).max() > 0.05


def test_a_drafter_of_an_unknown_generation_is_refused_by_name(tmp_path: Path) -> None:
    """Its name is the reason that a user is told, whatever else its config has or lacks."""
    config = {"architectures": ["DFlash9DraftModel"], "dflash_config": {"selector_rank": 256}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="'DFlash9DraftModel' is not supported"):
        read_drafter_config(tmp_path)
