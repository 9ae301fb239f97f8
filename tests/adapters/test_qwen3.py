"""Qwen3 targets of every variety compute what mlx-lm computes."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.loading import load_target
from tests.adapters.dense import DenseRows
from tests.adapters.feeding import PROMPT, feed
from tests.adapters.upstream import Upstream
from tests.tiny import reconfigure, write_target

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


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_bit_for_bit_those_of_mlx_lm(tmp_path: Path, name: str) -> None:
    """The whole prompt at once, then token by token."""
    directory = write_target(tmp_path, **VARIANTS[name])
    theirs, target = Upstream(directory), load_target(directory)
    rows = DenseRows(target.cache_specs, 1)
    for tokens in (PROMPT, [3], [94], [0]):
        want = theirs.logits(tokens)
        got = target.logits(feed(target, rows, [tokens]).hidden)
        assert mx.array_equal(got, want).item(), mx.abs(got - want).max().item()


@pytest.mark.parametrize("taps", [(0,), (3,), (0, 1, 2), (2, 0), (1, 1)])
def test_taps_come_in_the_order_asked_for(tmp_path: Path, taps: tuple[int, ...]) -> None:
    directory = write_target(tmp_path)
    after = Upstream(directory).residuals(PROMPT)
    target = load_target(directory)
    captured = feed(target, DenseRows(target.cache_specs, 1), [PROMPT], taps)
    want = mx.concatenate([after[index] for index in taps], axis=-1)
    assert mx.array_equal(captured.taps, want).item()


def test_without_taps_none_are_kept(tmp_path: Path) -> None:
    target = load_target(write_target(tmp_path))
    assert feed(target, DenseRows(target.cache_specs, 1), [PROMPT]).taps is None


def test_what_a_target_says_of_itself(tmp_path: Path) -> None:
    target = load_target(write_target(tmp_path))
    assert (target.num_layers, target.hidden_size, target.vocab_size) == (4, 64, 96)
    assert target.max_context == 512
    assert target.dtype == mx.float32
    assert target.cache_specs == (AttentionSpec(2, 16, mx.float32),) * 4
    assert target.embed(mx.array([[1, 2], [3, 4]])).shape == (2, 2, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, "layer 3 is of type"),
        ({"use_sliding_window": True, "sliding_window": 64}, "use_sliding_window is true"),
    ],
)
def test_a_window_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """No published Qwen3 has one, and mlx-lm's model would leave it out."""
    directory = write_target(tmp_path)
    reconfigure(directory, **changes)
    with pytest.raises(AdapterError, match=message):
        load_target(directory)
