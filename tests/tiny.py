"""Tiny random checkpoints in the real layouts, written to disk and loaded by the real code."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dflash_serve.adapters import registry
from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.dflash import DFlashModel
from dflash_serve.adapters.dflash2 import DFlash2Model
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.adapters.loading import load_drafter, load_target
from tests.published import as_published

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

WINDOW = 24
"""Tokens that a tiny Mistral's layers see."""

MISTRAL: dict[str, Any] = {
    key: value for key, value in TARGET.items() if key not in ("head_dim", "tie_word_embeddings")
} | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "head_dim": None,
    "sliding_window": WINDOW,
}

MISTRAL3: dict[str, Any] = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "model_type": "mistral3",
    "text_config": MISTRAL,
    "vision_config": {"hidden_size": 4},
}

MINISTRAL3: dict[str, Any] = MISTRAL3 | {
    "text_config": {key: value for key, value in MISTRAL.items() if key != "rope_theta"}
    | {
        "model_type": "ministral3",
        "sliding_window": None,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
}

_QWEN3_5_TEXT: dict[str, Any] = {
    key: value for key, value in TARGET.items() if key not in ("architectures", "rope_theta")
} | {
    "model_type": "qwen3_5_text",
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "full_attention_interval": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4,
    "attn_output_gate": True,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "mrope_interleaved": True,
        "mrope_section": [1, 1, 0],
    },
}
QWEN3_5: dict[str, Any] = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "model_type": "qwen3_5",
    "text_config": _QWEN3_5_TEXT,
    "vision_config": {"depth": 1},
    "tie_word_embeddings": True,
}
QWEN3_5_MOE: dict[str, Any] = QWEN3_5 | {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "model_type": "qwen3_5_moe",
    "text_config": _QWEN3_5_TEXT
    | {
        "model_type": "qwen3_5_moe_text",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
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


def reconfigure(directory: Path, **changes: Any) -> None:
    """Change entries of a checkpoint's config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_target(
    directory: Path, seed: int = 0, base: dict[str, Any] = TARGET, **changes: Any
) -> Path:
    """A random target; weights are scaled up so that its greedy text is not constant.

    ``base``: the config of another family, in whose Hugging Face layout the weights are written.
    """
    config = base | changes
    mx.random.seed(seed)
    family = registry.find_target(config["model_type"])
    model_class, args_class = family.model_classes
    model = model_class(args_class.from_dict(config))
    weights = {name: 3.0 * value if value.ndim > 1 else value for name, value in _flat(model)}
    return write_checkpoint(directory, config, _as_published(config, weights))


_SHIFTED = ("layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight")


def _as_published(config: dict[str, Any], weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """mlx-lm's names and layouts -> those of the published checkpoints of a family."""
    if config["model_type"] == "mistral3":
        return weights | {"vision_tower.patch_conv.weight": mx.ones(4)}
    if config["model_type"].startswith("gemma"):
        return _as_gemma(config, weights)
    if not config["model_type"].startswith("qwen3_5"):
        return as_published(config, weights)
    inner = "model.language_model." if "text_config" in config else "model."
    published: dict[str, mx.array] = {
        "mtp.norm.weight": mx.ones(4),
        "model.visual.merger.norm.weight": mx.ones(4),
    }
    for name, value in weights.items():
        stored = name.removeprefix("language_model.").replace("model.", inner, 1)
        published[stored] = value
        if name.endswith(_SHIFTED):
            published[stored] = value - 1.0
        elif name.endswith("conv1d.weight"):
            published[stored] = value.moveaxis(2, 1)
    return _join_experts(published, ".switch_mlp.")


def _as_gemma(config: dict[str, Any], weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """With towers, where the config is not of a text model alone.

    The family's embedding scale is taken out of the random embedding, or a token repeats itself.
    """
    calm = {
        name: value / 8 if name.endswith("embed_tokens.weight") else value
        for name, value in weights.items()
    }
    if "text_config" not in config:
        return _join_experts(calm, ".experts.switch_glu.")
    if config["model_type"] == "gemma3":
        names = ("vision_tower.patch.weight", "multi_modal_projector.norm.weight")
        return calm | {name: mx.ones(4) for name in names}
    inner = {f"model.{name.replace('.model.', '.', 1)}": value for name, value in calm.items()}
    names = ("vision_tower.patch.weight", "embed_vision.norm.weight", "audio_tower.norm.weight")
    towers = {f"model.{name}": mx.ones(4) for name in names}
    return _join_experts(inner, ".experts.switch_glu.") | towers


def _join_experts(weights: dict[str, mx.array], inner: str) -> dict[str, mx.array]:
    """Gate and up projections of all experts in one tensor, as Hugging Face stores them."""
    joined = {name: value for name, value in weights.items() if inner not in name}
    for name, value in weights.items():
        mlp, _, kind = name.partition(inner)
        if kind == "gate_proj.weight":
            both = [value, weights[f"{mlp}{inner}up_proj.weight"]]
            joined[f"{mlp}.experts.gate_up_proj"] = mx.concatenate(both, axis=-2)
        elif kind == "down_proj.weight":
            joined[f"{mlp}.experts.down_proj"] = value
    return joined


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
