"""Qwen3 targets over slot caches compute what mlx-lm computes with its own cache."""

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from dflash_serve.adapters.base import Captured, TargetAdapter
from dflash_serve.adapters.loading import load_target
from dflash_serve.adapters.masks import causal_mask
from dflash_serve.engine.cache_pool import LayerView
from tests.adapters.caches import Rows
from tests.tiny import write_target

RNG = random.Random(1)
PROMPT = [RNG.randrange(96) for _ in range(37)]
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "rope_parameters": {
        "rope_theta": None,
        "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"},
    },
    "yarn": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 128,
        }
    },
    "one kv head, wide heads": {"num_key_value_heads": 1, "head_dim": 32},
}


def feed(
    target: TargetAdapter,
    rows: Rows,
    tokens: list[list[int]],
    taps: tuple[int, ...] = (),
    width: int = 0,
) -> Captured:
    """One forward of ragged rows, padded to ``width``; all of their tokens are committed."""
    width = max(width, *map(len, tokens))
    padded = mx.array([row + [0] * (width - len(row)) for row in tokens], dtype=mx.int32)

    def forward(views: list[LayerView]) -> Captured:
        mask = causal_mask(views[0].offset, width, views[0].attended)
        captured = target.forward(padded, mask, views, taps)
        mx.eval(captured.hidden)
        return captured

    kept: list[Captured] = []
    rows.run(list(map(len, tokens)), width, lambda views: kept.append(forward(views)))
    rows.lengths = [n + len(row) for n, row in zip(rows.lengths, tokens, strict=True)]
    return kept[0]


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_bit_for_bit_those_of_mlx_lm(tmp_path: Path, name: str) -> None:
    """The whole prompt at once, then token by token."""
    directory = write_target(tmp_path, **VARIANTS[name])
    theirs, _ = load_model(directory)
    cache = make_prompt_cache(theirs)
    target = load_target(directory)
    rows = Rows(target.layout, 1, 128, first=1)
    for tokens in (PROMPT, [3], [94], [0]):
        want = theirs(mx.array([tokens]), cache=cache)
        got = target.logits(feed(target, rows, [tokens]).hidden)
        assert got.dtype == mx.float32
        assert mx.array_equal(got, want).item(), mx.abs(got - want).max().item()


@pytest.mark.parametrize("size", [1, 5, 36])
def test_a_prompt_in_chunks_equals_the_whole_one(tmp_path: Path, size: int) -> None:
    target = load_target(write_target(tmp_path))
    whole = feed(target, Rows(target.layout, 1, 64), [PROMPT], (0, 3))
    assert whole.taps is not None
    rows = Rows(target.layout, 1, 64)
    hidden, taps = [], []
    for start in range(0, len(PROMPT), size):
        captured = feed(target, rows, [PROMPT[start : start + size]], (0, 3))
        hidden.append(captured.hidden)
        taps.append(captured.taps)
    assert mx.array_equal(mx.concatenate(hidden, axis=1), whole.hidden).item()
    assert mx.array_equal(mx.concatenate(taps, axis=1), whole.taps).item()


@pytest.mark.parametrize("taps", [(0,), (3,), (0, 1, 2), (2, 0), (1, 1)])
def test_taps_are_the_residual_stream_after_each_layer(
    tmp_path: Path, taps: tuple[int, ...]
) -> None:
    """Checked against mlx-lm's layers run by hand: not before the layer, not after the norm."""
    directory = write_target(tmp_path)
    theirs, _ = load_model(directory)
    hidden = theirs.model.embed_tokens(mx.array([PROMPT]))
    after = []
    for layer in theirs.model.layers:
        hidden = layer(hidden, "causal", None)
        after.append(hidden)
    target = load_target(directory)
    captured = feed(target, Rows(target.layout, 1, 64), [PROMPT], taps)
    want = mx.concatenate([after[index] for index in taps], axis=-1)
    assert mx.array_equal(captured.taps, want).item()
    assert mx.array_equal(captured.hidden, theirs.model.norm(after[-1])).item()


def test_without_taps_none_are_kept(tmp_path: Path) -> None:
    target = load_target(write_target(tmp_path))
    assert feed(target, Rows(target.layout, 1, 64), [PROMPT]).taps is None


def test_what_a_target_says_of_itself(tmp_path: Path) -> None:
    target = load_target(write_target(tmp_path))
    assert (target.num_layers, target.hidden_size, target.vocab_size) == (4, 64, 96)
    assert target.max_context == 512
    layout = target.layout
    assert (layout.layers, layout.kv_heads, layout.head_dim) == (4, 2, 16)
    assert layout.dtype == mx.float32
    assert layout.bytes_per_token == 2 * 4 * 2 * 16 * 4
    tokens = mx.array([[1, 2], [3, 4]])
    assert target.embed(tokens).shape == (2, 2, 64)
