"""Drafters draft the same here and in z-lab's own package, PyTorch backend, both ways.

Skipped without PyTorch and transformers 5.15, which are too large to install for the tests alone.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from typer.testing import CliRunner

from dflash_serve.adapters.base import AdapterError
from dflash_serve.training.cli import app
from dflash_serve.training.export.sources import read_source
from tests.tiny import TARGET
from tests.training.zlab import (
    BLOCK,
    DFLASH2,
    KINDS,
    MASK,
    Array,
    Ours,
    assert_same,
    exported,
    loaded,
    tiny_target,
)

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
model_torch = pytest.importorskip(
    "dflash.model", reason="z-lab's package or its transformers is missing", exc_type=ImportError
)

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's and transformers' own

ROUNDS = (9, 3, 1, 1, 5, 1, 6, 2)
"""Rounds of one row too, which z-lab's MLX backend gets wrong once a window is full."""


class Theirs:
    """z-lab's drafter over transformers' cache, cut back to the context after each round."""

    def __init__(self, draft: Any, embedding: mx.array) -> None:
        self._draft, self._seen = draft.eval(), 0
        self._embedding = torch.tensor(np.array(embedding))
        self._cache = model_torch._make_cache(draft.config)
        self._scale = model_torch._draft_value(draft.config, "input_embedding_scale", 1.0)

    def round(self, taps: Array, anchor: int) -> tuple[Array, list[int]]:
        ids = torch.tensor([anchor] + [MASK] * (BLOCK - 1))
        end = self._seen + len(taps)
        with torch.inference_mode():
            rows = self._draft(
                target_hidden=torch.tensor(taps)[None],
                noise_embedding=self._embedding[ids][None] * self._scale,
                position_ids=torch.arange(self._seen, end + BLOCK)[None],
                past_key_values=self._cache,
                use_cache=True,
            )[:, 1:]
            model_torch._crop_to(self._cache, end)
            logits = self._draft.compute_logits(rows, self._head)
            chosen = logits.argmax(-1)
            if isinstance(self._draft, model_torch.DFlash2DraftModel):
                chosen = self._draft.propose(rows, ids[:1], self._head, 0.0)[0]
        self._seen = end
        return logits[0].numpy(), chosen[0].tolist()

    def _head(self, rows: Any) -> Any:
        return rows @ self._embedding.T


def from_pretrained(kind: str, directory: Path) -> Any:
    name = "DFlash2DraftModel" if kind == DFLASH2 else "DFlashDraftModel"
    return getattr(model_torch, name).from_pretrained(directory, dtype=torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_drafter_drafts_the_same_there(kind: str, tmp_path: Path) -> None:
    model, target = tiny_target()
    ours = Ours(exported(kind, target, tmp_path))
    theirs = Theirs(from_pretrained(kind, tmp_path), model.model.embed_tokens.weight)
    assert assert_same(ours, theirs, ROUNDS) == (kind == DFLASH2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_they_save_converts_and_drafts_the_same_here(kind: str, tmp_path: Path) -> None:
    """transformers writes rope_parameters, and their codebooks with a ".weight"."""
    model, target = tiny_target()
    exported(kind, target, tmp_path / "first")
    theirs = from_pretrained(kind, tmp_path / "first")
    theirs.save_pretrained(tmp_path / "saved")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "config.json").write_text(json.dumps(TARGET))
    places = ["--target", tmp_path / "target", "--out", tmp_path / "back"]
    words = ["convert", tmp_path / "saved", *places]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    ours = Ours(loaded(tmp_path / "back", target))
    assert_same(ours, Theirs(theirs, model.model.embed_tokens.weight), ROUNDS)


@pytest.mark.parametrize("nest", [(), ("draft_state_dict",), ("state_dict", "model")])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_tensors_come_out_of_torch_files_bit_by_bit(
    nest: tuple[str, ...], dtype: str, tmp_path: Path
) -> None:
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    state: dict[str, Any] = {"fc.weight": values.to(getattr(torch, dtype)), "steps": 3}
    state |= {"d2t": torch.tensor([5, 0, 7]), "t2d": torch.tensor([True, False])}
    for key in reversed(nest):
        state = {key: state, "epoch": 2}
    torch.save(state, tmp_path / "training_state.pt")
    read = read_source(tmp_path)
    assert {name: read.pop(name).tolist() for name in ("d2t", "t2d")} == {
        "d2t": [5, 0, 7],
        "t2d": [True, False],
    }
    (stored,) = read.values()
    assert stored.dtype == getattr(mx, dtype)
    expected = mx.array(values.numpy()).astype(stored.dtype)
    assert mx.array_equal(stored, expected)


class Unsafe:
    """What a pickle may hold besides tensors."""


@pytest.mark.parametrize("content", [b"no pickle", b"", None])
def test_torch_files_that_are_broken_or_hold_code_are_refused(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    if content is None:
        torch.save({"fc.weight": Unsafe()}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(AdapterError, match=r"model\.pt cannot be read"):
        read_source(path)
