"""Tiny random checkpoints in the real layouts, written to disk and loaded by the real code."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3 import Model, ModelArgs

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.dflash import DFlashModel
from dflash_serve.adapters.dflash2 import DFlash2Model
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.adapters.loading import load_drafter, load_target

TARGET: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}

DRAFTER: dict[str, Any] = {
    "architectures": ["DFlashDraftModel"],
    "model_type": "qwen3",
    "block_size": 16,
    "dflash_config": {"mask_token_id": 95, "target_layer_ids": [0, 1, 2]},
    "num_target_layers": 4,
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "layer_types": ["full_attention", "full_attention"],
}

DFLASH2: dict[str, Any] = {
    "architectures": ["DFlash2DraftModel"],
    "dflash_config": DRAFTER["dflash_config"]
    | {"conv_kernel_size": 2, "conv_group_size": 16, "selector_rank": 8, "selector_top_k": 12},
}
"""Changes that make it a DFlash 2 drafter."""


def write_checkpoint(directory: Path, config: dict[str, Any], weights: dict[str, mx.array]) -> Path:
    """config.json and model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(directory / "model.safetensors"), weights)
    return directory


def write_target(directory: Path, seed: int = 0, **changes: Any) -> Path:
    """A random target; weights are scaled up so that its greedy text is not constant."""
    config = TARGET | changes
    mx.random.seed(seed)
    model = Model(ModelArgs.from_dict(config))
    weights = {name: 3.0 * value if value.ndim > 1 else value for name, value in _flat(model)}
    return write_checkpoint(directory, config, weights)


def write_drafter(directory: Path, seed: int = 1, **changes: Any) -> Path:
    """A random drafter for `write_target`'s target, v1 or `DFLASH2`."""
    config = DRAFTER | changes
    mx.random.seed(seed)
    parsed = parse_dflash_config(config)
    if not parsed.selector_rank:
        return write_checkpoint(directory, config, dict(_flat(DFlashModel(parsed))))
    # a new one's convolutions and selector do nothing
    weights = {
        name: value + 0.2 * mx.random.normal(value.shape)
        for name, value in _flat(DFlash2Model(parsed))
    }
    return write_checkpoint(directory, config, weights)


def tiny_pair(
    directory: Path, target: dict[str, Any] | None = None, drafter: dict[str, Any] | None = None
) -> tuple[TargetAdapter, DraftAdapter]:
    """A loaded pair; the dictionaries change config entries."""
    loaded = load_target(write_target(directory / "target", **(target or {})))
    return loaded, load_drafter(write_drafter(directory / "drafter", **(drafter or {})), loaded)


def _flat(model: Any) -> list[tuple[str, mx.array]]:
    flat: list[tuple[str, mx.array]] = tree_flatten(model.parameters())
    return flat
