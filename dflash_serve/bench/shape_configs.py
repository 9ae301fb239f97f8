"""The published configurations of large targets and of their drafters: shapes without weights.

Values are those of the model cards. Where a drafter's own config was not at hand, its sizes follow
its target's, as z-lab's do; each such value is marked.
"""

from dataclasses import dataclass
from typing import Any

from dflash_serve.adapters.dflash_config import default_layer_ids


@dataclass(frozen=True, slots=True)
class Shape:
    """A target and its drafter, each as the content of a config.json."""

    target: dict[str, Any]
    drafter: dict[str, Any]


def _drafter(text: dict[str, Any], mask: int, block: int = 16, **changes: Any) -> dict[str, Any]:
    """A v1 drafter of five layers with the heads of a Qwen3, for a target of a config."""
    layers, targets = 5, text["num_hidden_layers"]
    ids = list(default_layer_ids(targets, layers))
    rope = text.get("rope_theta") or text["rope_parameters"]["rope_theta"]
    config = {
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "block_size": block,
        "dflash_config": {"mask_token_id": mask, "target_layer_ids": ids},
        "num_target_layers": targets,
        "num_hidden_layers": layers,
        "layer_types": ["full_attention"] * layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": rope,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    same = ("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings")
    return config | {key: text[key] for key in same} | changes


_QWEN3_8B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "sliding_window": None,
    "use_sliding_window": False,
    "attention_bias": False,
    "tie_word_embeddings": False,
}

_QWEN3_4B = _QWEN3_8B | {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "tie_word_embeddings": True,
}

_QWEN3_CODER_30B: dict[str, Any] = _QWEN3_8B | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "intermediate_size": 5472,
    "num_key_value_heads": 4,
    "max_position_embeddings": 262144,
    "rope_theta": 10000000.0,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
}

_GPT_OSS_20B: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "num_hidden_layers": 24,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}

_QWEN3_5_9B_TEXT: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "intermediate_size": 12288,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "vocab_size": 248320,
    "max_position_embeddings": 262144,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8,
    "full_attention_interval": 4,
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "attn_output_gate": True,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000000.0,
        "partial_rotary_factor": 0.25,
        "mrope_interleaved": True,
        "mrope_section": [11, 11, 10],
    },
    "tie_word_embeddings": False,
}

_QWEN3_5_4B_TEXT = _QWEN3_5_9B_TEXT | {
    "hidden_size": 2560,
    "intermediate_size": 9216,
    "tie_word_embeddings": True,
}

_LLAMA_3_1_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}

_GEMMA_3_12B_TEXT: dict[str, Any] = {
    "model_type": "gemma3_text",
    "hidden_size": 3840,
    "num_hidden_layers": 48,
    "intermediate_size": 15360,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "query_pre_attn_scalar": 256,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
}

SHAPES: dict[str, Shape] = {
    "qwen3-8b": Shape(_QWEN3_8B, _drafter(_QWEN3_8B, mask=151669)),
    "qwen3.5-9b": Shape(
        {
            "architectures": ["Qwen3_5ForConditionalGeneration"],
            "model_type": "qwen3_5",
            "text_config": _QWEN3_5_9B_TEXT,
            "tie_word_embeddings": False,
        },
        _drafter(_QWEN3_5_9B_TEXT, mask=248070),
    ),
    # mask: a reserved token, not the published one
    "llama-3.1-8b": Shape(_LLAMA_3_1_8B, _drafter(_LLAMA_3_1_8B, mask=128002, block=10)),
    # no drafter is published for Gemma 3: one in the shape of the others
    "gemma-3-12b": Shape(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "text_config": _GEMMA_3_12B_TEXT,
            "vocab_size": 262208,
        },
        _drafter(_GEMMA_3_12B_TEXT, mask=4),
    ),
}
"""Name -> shapes. The script `tools/shapes.py` writes them, or small ones of their kind."""

TRAINED: dict[str, tuple[dict[str, Any], int, int]] = {
    "qwen3-4b": (_QWEN3_4B, 5, 16),
    "qwen3-8b": (_QWEN3_8B, 5, 16),
    "qwen3-coder-30b-a3b": (_QWEN3_CODER_30B, 8, 16),
    "qwen3.5-4b": (
        {"model_type": "qwen3_5", "text_config": _QWEN3_5_4B_TEXT, "tie_word_embeddings": True},
        5,
        16,
    ),
    "qwen3.5-9b": (SHAPES["qwen3.5-9b"].target, 5, 16),
    "llama-3.1-8b": (_LLAMA_3_1_8B, 5, 10),
    "gpt-oss-20b": (_GPT_OSS_20B, 8, 10),
}
"""Targets with a published drafter: config, and that drafter's layers and block."""
