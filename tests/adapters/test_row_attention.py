"""mlx-lm's attention over caches that attend: its code, its other globals, nothing else changed."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import gpt_oss, qwen3

from dflash_serve.adapters.row_attention import attending_rows


class Recording:
    """Says what it was asked."""

    offset = mx.array([0], dtype=mx.int32)

    def __init__(self) -> None:
        self.asked: list[tuple[float, Any]] = []

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[None, None]:
        return None, None

    def attend(
        self,
        queries: mx.array,
        scale: float,
        *,
        causal: bool = True,
        sinks: mx.array | None = None,
    ) -> mx.array:
        self.asked.append((scale, sinks))
        return queries


ARGS = qwen3.ModelArgs(
    model_type="qwen3",
    hidden_size=64,
    num_hidden_layers=1,
    intermediate_size=8,
    num_attention_heads=4,
    rms_norm_eps=1e-6,
    vocab_size=8,
    num_key_value_heads=2,
    max_position_embeddings=64,
    head_dim=16,
    tie_word_embeddings=True,
    rope_theta=1e4,
)


def test_the_cache_attends_with_the_modules_scale() -> None:
    attention, cache = attending_rows(qwen3.Attention(ARGS)), Recording()
    assert isinstance(attention, qwen3.Attention)
    assert attention(mx.ones((1, 3, 64)), None, cache).shape == (1, 3, 64)
    assert cache.asked == [(0.25, None)]


def test_sinks_come_along() -> None:
    config = {"model_type": "gpt_oss", "hidden_size": 64, "head_dim": 16}
    args = gpt_oss.ModelArgs.from_dict(config | {"num_attention_heads": 4, "num_hidden_layers": 1})
    attention, cache = attending_rows(gpt_oss.AttentionBlock(args)), Recording()
    attention(mx.ones((1, 3, 64)), None, cache)
    assert cache.asked[0][1] is attention.sinks


def test_mlx_lms_own_module_is_as_it_was() -> None:
    module, call = qwen3.Attention(ARGS), qwen3.Attention.__call__
    contents = dict(module)
    made = attending_rows(module)
    made.rope = nn.RoPE(4)
    assert type(module) is qwen3.Attention
    assert all(module[name] is value for name, value in contents.items())
    assert made.q_proj is module.q_proj
    assert qwen3.Attention.__call__ is call
    assert type(made).__call__.__code__ is call.__code__
    changed = {
        name
        for name, value in type(made).__call__.__globals__.items()
        if call.__globals__.get(name) is not value
    }
    assert changed == {"scaled_dot_product_attention"}


def test_a_class_that_does_not_attend_so_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Linear does not call scaled_dot_product_attention"):
        attending_rows(nn.Linear(4, 4))
