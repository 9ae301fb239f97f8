"""Tiny configs of families with experts, sinks or convolutions, after the published ones' keys."""

from typing import Any

from tests.tiny import TARGET, WINDOW

FULL, SLIDING = "full_attention", "sliding_attention"

QWEN3_MOE: dict[str, Any] = TARGET | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "max_window_layers": 4,
    "mlp_only_layers": [1],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "rope_scaling": None,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}

GPT_OSS: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "experts_per_token": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initial_context_length": 64,
    "intermediate_size": 96,
    "layer_types": [SLIDING, FULL] * 2,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 3,
    "num_local_experts": 4,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 10000,
    "sliding_window": WINDOW,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 96,
}

LFM2: dict[str, Any] = {
    "architectures": ["Lfm2ForCausalLM"],
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": True,
    "block_dim": 64,
    "block_ff_dim": 144,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 32,
    "conv_L_cache": 3,
    "conv_bias": False,
    "hidden_size": 64,
    "layer_types": ["conv", "conv", FULL, "conv"],
    "max_position_embeddings": 512,
    "norm_eps": 1e-5,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rope_theta": 10000.0,
    "tie_embedding": True,
    "vocab_size": 96,
}
LFM2_MOE: dict[str, Any] = {
    key: value for key, value in LFM2.items() if not key.startswith("block_")
} | {
    "architectures": ["Lfm2MoeForCausalLM"],
    "model_type": "lfm2_moe",
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "num_dense_layers": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 1.0,
    "use_expert_bias": True,
}

_BASE: dict[str, Any] = {key: value for key, value in TARGET.items() if key != "architectures"}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "norm_topk_prob": True,
}
_GRANITE: dict[str, Any] = {
    "attention_bias": False,
    "attention_multiplier": 0.1,
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "mlp_bias": False,
    "residual_multiplier": 0.22,
}
COHERE2: dict[str, Any] = _BASE | {
    "model_type": "cohere2",
    "attention_bias": False,
    "layer_norm_bias": False,
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.25,
    "sliding_window": WINDOW,
    "sliding_window_pattern": 4,
}
GENERIC: dict[str, dict[str, Any]] = {
    "cohere2": COHERE2,
    "ernie4_5": {"use_bias": False},
    "exaone4": {"sliding_window": WINDOW, "sliding_window_pattern": "LLLG", "rope_scaling": None},
    "glm4": {"attention_bias": True, "partial_rotary_factor": 0.5, "rope_traditional": True},
    "granite": _GRANITE,
    "granitemoe": _GRANITE | _EXPERTS,
    "minicpm": {
        "dim_model_base": 32,
        "scale_depth": 1.4,
        "scale_emb": 12,
        "tie_word_embeddings": False,
    },
    "mixtral": _EXPERTS,
    "olmo2": {},
    "olmo3": {"sliding_window": WINDOW, "layer_types": [SLIDING, SLIDING, FULL, SLIDING]},
    "olmoe": _EXPERTS,
    "phi3": {"sliding_window": None},
    "phimoe": {
        "attention_bias": True,
        "lm_head_bias": True,
        "original_max_position_embeddings": 64,
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.5] * 8,
            "short_factor": [1.0] * 8,
            "long_mscale": 1.2,
            "short_mscale": 1.2,
            "original_max_position_embeddings": 64,
        },
    }
    | _EXPERTS,
    "qwen2": {"use_sliding_window": False, "sliding_window": 64},
    "qwen3_vl": {
        "text_config": _BASE
        | {
            "model_type": "qwen3_vl_text",
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
        }
    },
    "qwen2_moe": _EXPERTS | {"decoder_sparse_step": 1, "mlp_only_layers": []},
    "seed_oss": {"attention_bias": True},
    "smollm3": {},
    "starcoder2": {"norm_epsilon": 1e-5},
}
GENERIC = {kind: _BASE | changes | {"model_type": kind} for kind, changes in GENERIC.items()}
"""Families without an adapter of their own, by ``model_type``."""
