"""Configs of tiny Gemmas: those of the published models, with small numbers."""

from typing import Any

from tests.tiny import WINDOW

_FULL, _SLIDING = "full_attention", "sliding_attention"

GEMMA3_TEXT: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 93],
    "final_logit_softcapping": None,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 24,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": WINDOW,
    "sliding_window_pattern": 3,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 96,
}
"""Of the shape of gemma-3-1b-it; ``query_pre_attn_scalar`` is not ``head_dim``, as in the 27B."""

GEMMA3: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 90,
    "eoi_token_index": 91,
    "eos_token_id": [1, 93],
    "image_token_index": 92,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 4,
    "model_type": "gemma3",
    "text_config": GEMMA3_TEXT | {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 4, "model_type": "siglip_vision_model"},
    "vocab_size": 96,
}
"""Of the shape of gemma-3-12b-it, whose text model has the defaults of the 1B written out here."""

_GEMMA4_TEXT: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_k_eq_v": True,
    "bos_token_id": 2,
    "dtype": "bfloat16",
    "enable_moe_block": False,
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 32,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "hidden_size_per_layer_input": 0,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_types": [_SLIDING, _SLIDING, _SLIDING, _FULL],
    "max_position_embeddings": 512,
    "model_type": "gemma4_text",
    "moe_intermediate_size": None,
    "num_attention_heads": 4,
    "num_experts": None,
    "num_global_key_value_heads": 1,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 0,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        _FULL: {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
        _SLIDING: {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": WINDOW,
    "tie_word_embeddings": True,
    "top_k_experts": None,
    "use_bidirectional_attention": "vision",
    "use_cache": True,
    "use_double_wide_mlp": False,
    "vocab_size": 96,
    "vocab_size_per_layer_input": 0,
}

GEMMA4: dict[str, Any] = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "audio_config": None,
    "eos_token_id": [1, 93],
    "image_token_id": 92,
    "model_type": "gemma4",
    "text_config": _GEMMA4_TEXT,
    "tie_word_embeddings": True,
    "vision_config": {"hidden_size": 4, "model_type": "gemma4_vision"},
    "vocab_size": 96,
}
"""Of the shape of gemma-4-31B-it."""

GEMMA4_UNIFIED: dict[str, Any] = GEMMA4 | {
    "architectures": ["Gemma4UnifiedForConditionalGeneration"],
    "model_type": "gemma4_unified",
    "text_config": _GEMMA4_TEXT | {"model_type": "gemma4_unified_text"},
}
"""Of the shape of gemma-4-12B-it."""

GEMMA4_MOE: dict[str, Any] = GEMMA4 | {
    "text_config": _GEMMA4_TEXT
    | {
        "enable_moe_block": True,
        "moe_intermediate_size": 32,
        "num_experts": 4,
        "top_k_experts": 2,
    },
}
"""Of the shape of gemma-4-26B-A4B-it."""

GEMMA4_SMALL: dict[str, Any] = GEMMA4 | {
    "text_config": _GEMMA4_TEXT
    | {
        "attention_k_eq_v": False,
        "hidden_size_per_layer_input": 8,
        "layer_types": [_SLIDING, _FULL, _SLIDING, _FULL],
        "num_global_key_value_heads": None,
        "num_kv_shared_layers": 2,
        "use_bidirectional_attention": None,
        "use_double_wide_mlp": True,
        "vocab_size_per_layer_input": 96,
    },
}
"""Of the shape of gemma-4-E2B-it: layers that share keys and values, embeddings per layer."""
