"""What every draft keeps: its chain is the likeliest child of each token, as likely as it says."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.base import Draft, LayerCache
from dflash_serve.bench.simulated import ChainDraft
from tests.adapters.caches import EngineRows
from tests.tiny import DFLASH2, tiny_pair

Read = tuple[mx.array, mx.array, list[tuple[mx.array, mx.array]]]


def read(draft: Draft, anchors: mx.array) -> Read:
    chain = draft.chain()
    befores = mx.concatenate([anchors[:, None], chain[:, :-1]], axis=1)
    slots = range(chain.shape[1])
    children = [draft.children(slot, befores[:, slot : slot + 1], 2) for slot in slots]
    return chain, draft.confidences(), children


@pytest.mark.parametrize("kind", [{}, DFLASH2], ids=["DFlash v1", "DFlash 2"])
def test_the_chain_is_the_likeliest_child(tmp_path: Path, kind: dict[str, Any]) -> None:
    _, drafter = tiny_pair(tmp_path, None, kind)
    rows = EngineRows(drafter.cache_specs, 2)
    taps = mx.random.normal((2, 5, 3 * 64), key=mx.random.key(3))
    rows.run([5, 5], 5, lambda views: drafter.append_context(taps, views))  # type: ignore[arg-type]
    anchors = mx.array([3, 60], dtype=mx.int32)

    def forward(views: list[LayerCache]) -> Read:
        return read(drafter.draft(anchors, 6, views), anchors)  # type: ignore[arg-type]

    chain, confidences, children = rows.run([6, 6], 6, forward, [0, 0])
    assert chain.shape == confidences.shape == (2, 5)
    assert confidences.dtype == mx.float32
    for slot, (ids, scores) in enumerate(children):
        assert ids[:, 0, 0].tolist() == chain[:, slot].tolist()
        np.testing.assert_allclose(mx.exp(scores[:, 0, 0]), confidences[:, slot], rtol=1e-4)
        assert mx.all(scores[..., 0] >= scores[..., 1]).item()
    assert 0 < confidences.min().item() < confidences.max().item() < 1


def test_a_chain_without_a_drafter_is_sure_of_itself() -> None:
    tokens = mx.array([[4, 5, 6]], dtype=mx.int32)
    chain, confidences, children = read(ChainDraft(tokens), mx.array([3], dtype=mx.int32))
    assert chain.tolist() == [[4, 5, 6]]
    assert confidences.tolist() == [[1.0, 1.0, 1.0]]
    assert [ids.tolist() for ids, _ in children] == [[[[4]]], [[[5]]], [[[6]]]]
