"""Drafters draft the same here and in z-lab's own package, MLX backend, both ways."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tests.tiny import TARGET, write_checkpoint
from tests.training.zlab import (
    BLOCK,
    DFLASH2,
    KINDS,
    MASK,
    WINDOW,
    Array,
    Ours,
    assert_same,
    exported,
    grown,
    loaded,
    tiny_target,
)

model_mlx = pytest.importorskip("dflash.model_mlx", reason="z-lab's package is not installed")


class Theirs:
    """z-lab's drafter over its own cache."""

    def __init__(self, draft: Any, model: Any) -> None:
        self._draft = draft.bind(model)
        self._cache = draft.make_cache()

    def round(self, taps: Array, anchor: int) -> tuple[Array, list[int]]:
        block = mx.array([[anchor] + [MASK] * (BLOCK - 1)])
        rows = self._draft.hidden_states(block, mx.array(taps)[None], self._cache, logits_start=1)
        logits = self._draft.compute_logits(rows)
        chosen = mx.argmax(logits, axis=-1)
        if isinstance(self._draft, model_mlx.DFlash2DraftModel):
            select = self._draft.candidate_selector.select
            chosen = select(rows, logits, mx.array([anchor]), 0.0)[0]
        return np.array(logits[0]), chosen[0].tolist()


@pytest.fixture
def load_theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Their loader, reading a local directory as it reads a downloaded one."""
    monkeypatch.setattr(model_mlx, "snapshot_download", lambda path, allow_patterns: path)
    return model_mlx.load_draft


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_drafter_drafts_the_same_there(
    kind: str, load_theirs: Any, tmp_path: Path
) -> None:
    model, target = tiny_target()
    ours = Ours(exported(kind, target, tmp_path))
    reordered = assert_same(ours, Theirs(load_theirs(str(tmp_path)), model))
    assert reordered == (kind == DFLASH2)


@pytest.mark.parametrize("sliding", [False, True])
def test_their_drafter_drafts_the_same_here(sliding: bool, tmp_path: Path) -> None:
    """Their DFlash 2 network, stored as the published ones: codebooks without ".weight"."""
    model, target = tiny_target()
    layers = ["sliding_attention" if sliding else "full_attention"] * 2
    inner = {"conv_kernel_size": 2, "conv_group_size": 16, "selector_rank": 8, "selector_top_k": 5}
    sizes = {key: TARGET[key] for key in _COPIED} | {
        "num_hidden_layers": 2,
        "num_target_layers": TARGET["num_hidden_layers"],
        "layer_types": layers,
        "sliding_window": WINDOW if sliding else None,
        "is_causal": False,
        "block_size": BLOCK,
    }
    taps = {"mask_token_id": MASK, "target_layer_ids": [0, 1, 2]}
    mx.random.seed(2)
    theirs = model_mlx.DFlash2DraftModel(model_mlx.DFlashConfig(**sizes, **inner, **taps))
    theirs.update(grown(theirs.parameters()))
    weights = {
        name.replace("codebook.weight", "codebook"): value
        for name, value in tree_flatten(theirs.parameters())
    }
    config = {"architectures": ["DFlash2DraftModel"], "dflash_config": {**taps, **inner}, **sizes}
    write_checkpoint(tmp_path, config, weights)
    assert assert_same(Ours(loaded(tmp_path, target)), Theirs(theirs, model))


_COPIED = (
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "rms_norm_eps",
    "rope_theta",
    "max_position_embeddings",
)
