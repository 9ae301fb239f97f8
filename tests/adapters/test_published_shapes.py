"""Published Llamas and Mistrals, shrunk: the keys of their config.json, and what they mean."""

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.loading import load_target
from tests.adapters.dense import DenseRows
from tests.adapters.feeding import PROMPT, feed
from tests.adapters.upstream import Upstream
from tests.tiny import WINDOW, reconfigure, write_target

FULL, SLIDING = "full_attention", "sliding_attention"

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 32,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
_MISTRAL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "model_type": "mistral",
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
_LONGER = {"rope_scaling": _LLAMA["rope_scaling"] | {"factor": 32.0}, "tie_word_embeddings": True}
SHAPES: dict[str, tuple[dict[str, Any], int, list[int | None]]] = {
    "Llama-3-8B": (_LLAMA | {"rope_scaling": None}, 8, [None] * 4),
    "Llama-3.1-8B, 3.3-70B": (_LLAMA, 8, [None] * 4),
    "Llama-3.2-1B": (_LLAMA | _LONGER | {"head_dim": 8}, 8, [None] * 4),
    "Llama-3.2-3B": (
        _LLAMA | _LONGER | {"head_dim": 16, "hidden_size": 96, "num_attention_heads": 6},
        16,
        [None] * 4,
    ),
    "Llama with biases": (_LLAMA | {"attention_bias": True, "mlp_bias": True}, 8, [None] * 4),
    "Mistral-7B-v0.1": (
        _MISTRAL | {"rope_theta": 10000.0, "sliding_window": WINDOW},
        8,
        [WINDOW] * 4,
    ),
    "Mistral-7B-v0.3": (_MISTRAL, 8, [None] * 4),
    "Mistral-Nemo-12B, Mistral-Small-24B": (
        _MISTRAL | {"head_dim": 8, "hidden_size": 80, "rope_theta": 1e8},
        8,
        [None] * 4,
    ),
    "Ministral-8B": (
        _MISTRAL
        | {
            "architectures": ["MinistralForCausalLM"],
            "head_dim": 8,
            "layer_types": [FULL, SLIDING, SLIDING, SLIDING],
            "model_type": "ministral",
            "rope_theta": 1e8,
            "sliding_window": WINDOW,
        },
        8,
        [None, WINDOW, WINDOW, WINDOW],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_published_shape_computes_what_mlx_lm_does(tmp_path: Path, name: str) -> None:
    """Bit for bit; where mlx-lm does not know a Mistral's layers, by its Llama with the same."""
    config, head_dim, windows = SHAPES[name]
    directory = write_target(tmp_path / "target", base=config)
    target = load_target(directory)
    assert target.cache_specs == tuple(
        AttentionSpec(2, head_dim, mx.float32, window) for window in windows
    )
    left_out = WINDOW if config["model_type"] == "mistral" and windows[0] else None
    theirs = Upstream(_as_llama(directory, tmp_path / "llama"), left_out)
    rows = DenseRows(target.cache_specs, 1)
    for tokens in (PROMPT, [3], [5, 6, 7]):
        got = target.logits(feed(target, rows, [tokens]).hidden)
        assert mx.array_equal(got, theirs.logits(tokens)).item()


def _as_llama(directory: Path, copy: Path) -> Path:
    """The same checkpoint under the name of the model that mlx-lm computes it with."""
    shutil.copytree(directory, copy)
    reconfigure(copy, model_type="llama")
    return copy
