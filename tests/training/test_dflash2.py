"""A DFlash 2 drafter in the engine: text never depends on it, proposals are the selector's walk."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.dflash2 import DFlash2Drafter
from tests.engine.test_exactness import generate, requests
from tests.tiny import DFLASH2, tiny_pair

SLIDING = DFLASH2 | {
    "layer_types": ["sliding_attention"] * 2,
    "sliding_window": 20,
    "is_causal": False,
}
Pair = tuple[TargetAdapter, DraftAdapter]


@pytest.fixture(scope="module", params=[DFLASH2, SLIDING], ids=["full", "sliding"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return tiny_pair(tmp_path_factory.mktemp("pair"), None, request.param)


@pytest.fixture(scope="module")
def plain(pair: Pair) -> dict[str, list[int]]:
    return generate((pair[0], None), requests(5, 3), block=1, batch=1, compiled=False)[0]


@pytest.mark.parametrize(("block", "batch"), [(2, 3), (5, 1), (16, 8)])
def test_greedy_and_sampled_text_equals_plain_decoding(
    pair: Pair, plain: dict[str, list[int]], block: int, batch: int
) -> None:
    texts, _, stats = generate(pair, requests(5, 3), block=block, batch=batch, compiled=False)
    assert texts == plain
    assert stats.drafted > 0


def test_compiled_rounds_joins_and_cancels_change_nothing(
    pair: Pair, plain: dict[str, list[int]]
) -> None:
    texts, aborted, _ = generate(pair, requests(5, 3), block=8, batch=4, late=4, cancel=0.1)
    for name, tokens in texts.items():
        assert tokens == (plain[name][: len(tokens)] if name in aborted else plain[name])


def test_the_walk_is_left_to_right_among_the_best_candidates(pair: Pair) -> None:
    """By hand in NumPy: each slot's choice is the predecessor of the next."""
    drafter = pair[1]
    assert isinstance(drafter, DFlash2Drafter)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 5, 64)).astype(np.float32)
    anchors = [5, 90, 17]
    found = np.array(drafter.read(mx.array(rows), mx.array(anchors)).chain())
    logits = np.array(drafter.logits(mx.array(rows)))
    selector = drafter.model.candidate_selector
    before, after, projection = (
        np.array(x)
        for x in (
            selector.predecessor_codebook,
            selector.successor_codebook,
            selector.hidden_projection.weight,
        )
    )
    moved = 0
    for row, anchor in enumerate(anchors):
        last = anchor
        for slot in range(5):
            best = np.argsort(-logits[row, slot])[:12]
            gate = before[last] * (projection @ rows[row, slot])
            scores = logits[row, slot, best] + after[best] @ gate
            last = int(best[np.argmax(scores)])
            moved += last != best[0]
            assert found[row, slot] == last
    assert moved  # the selector does not just repeat the head


def test_a_new_drafters_selector_and_convolutions_change_nothing(tmp_path: Path) -> None:
    """As initialised, DFlash 2 is DFlash v1: the same rows from the same shared weights."""
    target, drafter = tiny_pair(tmp_path, None, DFLASH2)
    assert isinstance(drafter, DFlash2Drafter)
    fresh = DFlash2Drafter.model_class(drafter.config)
    rows = mx.random.normal((2, 6, 64))
    conv = fresh.layers[0].attention_conv
    np.testing.assert_array_equal(np.array(conv(rows, lambda x: 2 * x)), np.array(2 * rows))
    new = DFlash2Drafter(drafter.config, fresh, target)
    chosen = new.read(rows, mx.array([1, 2])).chain()
    np.testing.assert_array_equal(np.array(chosen), np.array(mx.argmax(new.logits(rows), axis=-1)))
