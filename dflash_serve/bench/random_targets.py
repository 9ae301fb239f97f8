"""Targets with random weights, by name or by the shape in a config.json."""

from pathlib import Path
from typing import Any

import mlx.core as mx

from dflash_serve.adapters.checkpoint import read_config
from dflash_serve.adapters.layered import LayeredTarget
from dflash_serve.adapters.loading import make_target
from dflash_serve.bench.errors import BenchError

_TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "vocab_size": 96,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
}

RANDOM_TARGETS: dict[str, dict[str, Any]] = {
    "qwen3-100m": {
        "model_type": "qwen3",
        "hidden_size": 768,
        "num_hidden_layers": 14,
        "intermediate_size": 2048,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "rms_norm_eps": 1e-6,
        "vocab_size": 16384,
        "max_position_embeddings": 4096,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "qwen3-tiny": _TINY | {"model_type": "qwen3", "tie_word_embeddings": True},
    "mistral-tiny": _TINY
    | {"model_type": "mistral", "sliding_window": 96, "tie_word_embeddings": True},
    "qwen3_5-tiny": _TINY
    | {
        "model_type": "qwen3_5_text",
        "full_attention_interval": 4,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        "tie_word_embeddings": True,
    },
}
"""Name -> config of a text model."""


def random_config(name: str, vocab: int = 0) -> dict[str, Any]:
    """A text model's config, of a name or of a config.json; ``vocab`` is another vocabulary's size.

    Raises:
        BenchError: it is neither.
    """
    if name in RANDOM_TARGETS:
        config = RANDOM_TARGETS[name]
    else:
        path = Path(name).expanduser()
        if not path.exists():
            known = ", ".join(RANDOM_TARGETS)
            raise BenchError(f"--random-target {name} is no config.json and none of: {known}")
        config = text_config(read_config(path if path.is_dir() else path.parent))
    return config | ({"vocab_size": vocab} if vocab else {})


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The text model of a config.json, unquantised."""
    known = {key: value for key, value in config.items() if not key.startswith("quantization")}
    inner = known.get("text_config")
    if inner is None:
        return known
    outer = {key: known[key] for key in ("model_type", "tie_word_embeddings") if key in known}
    return outer | inner | {"model_type": outer["model_type"]}


def random_target(config: dict[str, Any], seed: int) -> LayeredTarget:
    """Random weights, the same ones for the same seed."""
    mx.random.seed(seed)
    target = make_target(config)
    mx.eval(target.parameters())
    return target
