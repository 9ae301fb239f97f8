"""Shifted blocks, DSpark's heads and tables of a drafter's own, against a dense reference."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import Draft, LayerCache
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.adapters.drafter_checkpoint import drafter_class
from dflash_serve.adapters.foreign import Z_LAB, Given, published_config
from dflash_serve.adapters.loading import load_drafter, load_target
from tests.adapters.caches import EngineRows
from tests.adapters.reference import Array, LayerKind, Reference
from tests.tiny import DRAFTER, TARGET, write_checkpoint, write_target

WIDTH, FEATURES, REDUCED = 6, 3 * 64, 40
SLIDING = "sliding_attention"
DSPARK = {
    "markov_rank": 8,
    "markov_head_type": "vanilla",
    "enable_confidence_head": True,
    "confidence_head_with_markov": True,
    "projector_type": "dspark",
}
CHOSEN = np.random.default_rng(8).permutation(95)[:REDUCED]
"""The target's tokens of a reduced vocabulary, in no order."""


@dataclass(frozen=True)
class Head:
    """Changes to dflash_config and to the whole config; stored: its tables beside the network."""

    inner: dict[str, Any]
    outer: dict[str, Any]
    kinds: tuple[LayerKind, LayerKind] = (LayerKind(), LayerKind())
    shift: int = 0
    own_embedding: bool = False

    @property
    def config(self) -> dict[str, Any]:
        inner = DRAFTER["dflash_config"] | {"block_size": WIDTH - self.shift} | self.inner
        return DRAFTER | self.outer | {"dflash_config": inner}


CAUSAL = (LayerKind(None, True),) * 2
HEADS = {
    "jetspec": Head({"causal_head": True, "target_hidden_size": 64}, {}, CAUSAL),
    "jetspec, shifted": Head({"causal_head": True, "draft_shift": True}, {}, CAUSAL, 1),
    "shifted": Head({"sample_from_anchor": True}, {}, shift=1),
    "dspark": Head(DSPARK, {}, shift=1),
    "dspark, as DeepSpec writes it": Head(
        {}, {**DSPARK, "architectures": ["Qwen3DSparkModel"], "projector_type": None}, shift=1
    ),
    "dspark, sliding": Head(
        DSPARK,
        {"layer_types": [SLIDING, SLIDING], "sliding_window": 9},
        (LayerKind(9, True), LayerKind(9, True)),
        shift=1,
    ),
    "dspark, not shifted": Head(DSPARK | {"sample_from_anchor": False}, {}),
    "markov alone": Head(DSPARK | {"enable_confidence_head": False}, {}, shift=1),
    "confidence alone": Head(
        DSPARK | {"markov_rank": 0, "confidence_head_with_markov": False}, {}, shift=1
    ),
    "reduced": Head({}, {"draft_vocab_size": REDUCED}),
    "reduced dspark": Head(DSPARK, {"draft_vocab_size": REDUCED}, shift=1),
    "own tables": Head({"own_head": True, "own_embedding": True}, {}, own_embedding=True),
}


def write_head(directory: Path, head: Head) -> Path:
    """A checkpoint whose weights are scaled up, so that masks, positions and biases matter."""
    config = published_config(Z_LAB, head.config, {}, {}, Given())
    reduced = config.get("draft_vocab_size")
    inner = config["dflash_config"] | ({"own_head": True} if reduced else {})
    parsed = parse_dflash_config(config | {"dflash_config": inner})
    mx.random.seed(11)
    flat = tree_flatten(drafter_class(config).model_class(parsed).parameters())
    weights = {
        name: 3.0 * mx.random.normal(value.shape) / value.shape[-1] ** 0.5
        if value.ndim > 1
        else 0.5 + mx.random.uniform(shape=value.shape)
        for name, value in flat
        if name != "target_ids"
    }
    if reduced:
        offsets = CHOSEN - np.arange(REDUCED)
        meant = np.zeros(96, dtype=np.bool_)
        meant[CHOSEN] = True
        weights |= {"d2t": mx.array(offsets.astype(np.int64)), "t2d": mx.array(meant)}
    return write_checkpoint(directory, head.config, weights)


def load(directory: Path, head: Head) -> DFlashDrafter:
    target = load_target(write_target(directory / "target"))
    return load_drafter(write_head(directory / "drafter", head), target)


@dataclass
class Expected:
    """A block as the reference has it: logits [q, Vd] without bias, rows [q, H]."""

    weights: dict[str, Array]
    logits: Array
    rows: Array
    anchor: int
    tokens: Array

    def biased(self, slot: int, before: int) -> Array:
        if "markov_head.markov_w1.weight" not in self.weights:
            return self.logits[slot]
        bias = self.weights["markov_head.markov_w2.weight"] @ self._embedded(before)
        return self.logits[slot] + bias

    def chain(self) -> list[int]:
        chosen, before = [], self.anchor
        for slot in range(len(self.logits)):
            before = int(self.tokens[self.biased(slot, before).argmax()])
            chosen.append(before)
        return chosen

    def confidences(self) -> list[float]:
        befores = [self.anchor, *self.chain()[:-1]]
        if "confidence_head.proj.weight" not in self.weights:
            return [
                float(shares(self.biased(slot, before)).max())
                for slot, before in enumerate(befores)
            ]
        weight = self.weights["confidence_head.proj.weight"][0]
        scores = []
        for row, before in zip(self.rows, befores, strict=True):
            features = row
            if len(weight) > len(row):
                features = np.concatenate([row, self._embedded(before)])
            scores.append(features @ weight + self.weights["confidence_head.proj.bias"][0])
        return [float(1 / (1 + np.exp(-score))) for score in scores]

    def _embedded(self, before: int) -> Array:
        return self.weights["markov_head.markov_w1.weight"][before]


def shares(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def reference_of(drafter: DFlashDrafter, head: Head) -> Reference:
    weights = {
        name: np.array(value, dtype=np.float64)
        for name, value in tree_flatten(drafter.model.parameters())
    }
    table = np.array(drafter.embed_block(mx.arange(TARGET["vocab_size"])), dtype=np.float64)
    return Reference(weights, head.config, table, head.kinds, shift=head.shift)


@pytest.mark.parametrize("name", HEADS)
def test_rounds_of_every_head_equal_a_dense_reference(tmp_path: Path, name: str) -> None:
    """Chain, confidences and children, over rounds of unlike acceptance."""
    head = HEADS[name]
    drafter = load(tmp_path, head)
    assert drafter.block_size == WIDTH
    reference = reference_of(drafter, head)
    tokens = CHOSEN if "reduced" in name else np.arange(96)
    rng = np.random.default_rng(3)
    rows = EngineRows(drafter.cache_specs, 1)
    context = np.zeros((0, FEATURES))
    for committed in (4, 1, 3, 6, 70, 2):
        verified = rng.normal(size=(max(committed, WIDTH), FEATURES))
        rows.run([len(verified)], len(verified), _appending(drafter, verified), [committed])
        context = np.concatenate([context, verified[:committed]])
        anchor, width = int(rng.integers(95)), int(rng.integers(3, WIDTH + 1))
        expected = Expected(
            dict(reference.weights),
            reference.logits(context, anchor, width),
            reference.rows(context, anchor, width),
            anchor,
            tokens,
        )
        befores = rng.integers(0, 95, 2)
        columns = drafter.inputs(width)
        assert columns == width - head.shift
        got = rows.run([columns], columns, _drafting(drafter, anchor, width, befores), [0])
        _compare(got, expected, befores)


Read = tuple[mx.array, mx.array, list[tuple[mx.array, mx.array]]]


def _appending(drafter: DFlashDrafter, features: Array) -> Any:
    taps = mx.array(features[None].astype(np.float32))
    return lambda views: drafter.append_context(taps, views)


def _drafting(drafter: DFlashDrafter, anchor: int, width: int, befores: Any) -> Any:
    def forward(views: list[LayerCache]) -> Read:
        draft: Draft = drafter.draft(mx.array([anchor], dtype=mx.int32), width, views)  # type: ignore[arg-type]
        chain = draft.chain()
        given = mx.array(befores[None].astype(np.int32))
        children = [draft.children(slot, given, 3) for slot in range(chain.shape[1])]
        return chain, draft.confidences(), children

    return forward


def _compare(got: Read, expected: Expected, befores: Any) -> None:
    chain, confidences, children = got
    assert chain.dtype == mx.int32
    assert confidences.dtype == mx.float32
    assert chain.tolist() == [expected.chain()]
    np.testing.assert_allclose(np.array(confidences)[0], expected.confidences(), atol=2e-3)
    for slot, (ids, scores) in enumerate(children):
        for at, before in enumerate(befores):
            logs = np.log(shares(expected.biased(slot, int(before))))
            best = np.argsort(-logs)[:3]
            assert ids[0, at].tolist() == expected.tokens[best].tolist()
            np.testing.assert_allclose(np.array(scores)[0, at], logs[best], atol=4e-3)


@pytest.mark.parametrize("name", ["shifted", "jetspec, shifted", "dspark", "dspark, sliding"])
def test_ragged_rows_of_a_shifted_head_do_not_see_each_others_blocks(
    tmp_path: Path, name: str
) -> None:
    """Rows of unlike context and block share a forward of as many columns as the widest takes."""
    head = HEADS[name]
    drafter = load(tmp_path, head)
    reference = reference_of(drafter, head)
    rng = np.random.default_rng(5)
    lengths, blocks, anchors = [9, 2, 70], [WIDTH, 3, 4], [7, 50, 21]
    features = [rng.normal(size=(length, FEATURES)) for length in lengths]
    padded = np.zeros((3, max(lengths), FEATURES), dtype=np.float32)
    for row, given in enumerate(features):
        padded[row, : len(given)] = given
    rows = EngineRows(drafter.cache_specs, 3)
    taps = mx.array(padded)
    rows.run(lengths, max(lengths), lambda views: drafter.append_context(taps, views))  # type: ignore[arg-type]
    tokens = mx.array(anchors, dtype=mx.int32)
    columns = [drafter.inputs(block) for block in blocks]
    chains = rows.run(
        columns,
        max(columns),
        lambda views: drafter.draft(tokens, WIDTH, views).chain(),  # type: ignore[arg-type]
        [0, 0, 0],
    )
    for row, block in enumerate(blocks):
        expected = Expected(
            dict(reference.weights),
            reference.logits(features[row], anchors[row], block),
            reference.rows(features[row], anchors[row], block),
            anchors[row],
            np.arange(96),
        )
        assert chains[row, : block - 1].tolist() == expected.chain()
