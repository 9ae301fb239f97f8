"""Targets with random weights, by name or by the shape in a config.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dflash_serve.adapters.checkpoint import read_config
from dflash_serve.adapters.layered import LayeredTarget
from dflash_serve.adapters.loading import make_target
from dflash_serve.adapters.target_config import text_config
from dflash_serve.bench.errors import BenchError
from dflash_serve.paths import name_fault, shown

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
    "tie_word_embeddings": True,
}

_WIDE: dict[str, Any] = _TINY | {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
"""Little compute beside caches of a usual width."""

_LINEAR: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "num_hidden_layers": 4,
    "full_attention_interval": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25},
}
"""What a hybrid of three recurrent layers to each that attends adds."""

_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}

_SINKS: dict[str, Any] = {
    "model_type": "gpt_oss",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "experts_per_token": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 64,
    "tie_word_embeddings": False,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 8.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 256,
    },
}

_CONVOLUTIONS: dict[str, Any] = {
    "model_type": "lfm2",
    "layer_types": ["conv", "conv", "full_attention", "conv"],
    "block_auto_adjust_ff_dim": True,
    "block_dim": 64,
    "block_ff_dim": 144,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 32,
    "conv_L_cache": 3,
    "conv_bias": False,
    "norm_eps": 1e-5,
    "tie_embedding": True,
}

_GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text",
    "query_pre_attn_scalar": 16,
    "rope_local_base_freq": 10000.0,
    "sliding_window": 64,
    "sliding_window_pattern": 3,
}

_GEMMA4: dict[str, Any] = {
    "model_type": "gemma4_text",
    "attention_k_eq_v": True,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
            "rope_type": "proportional",
        },
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 64,
    "use_double_wide_mlp": False,
}

_22M: dict[str, Any] = _TINY | {
    "model_type": "qwen3",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "intermediate_size": 1024,
    "num_attention_heads": 6,
    "head_dim": 64,
    "vocab_size": 8192,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
}

_100M: dict[str, Any] = _22M | {
    "hidden_size": 768,
    "num_hidden_layers": 14,
    "intermediate_size": 2048,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 16384,
    "max_position_embeddings": 4096,
}


@dataclass(frozen=True, slots=True)
class RandomTarget:
    """The config of a text model, and a factor of its layers' random matrices.

    With a factor of 1 a tiny model's greedy text is one token, repeated; with 4 it hardly repeats
    any. In between both kinds of text are there, so drafts of all lengths can be right.
    """

    config: dict[str, Any]
    factor: float = 1.0

    def load(self, seed: int) -> LayeredTarget:
        """The same weights for the same seed."""
        mx.random.seed(seed)
        target = make_target(self.config)
        target.scale_layers(self.factor)
        mx.eval(target.parameters())
        return target

    @property
    def parameters(self) -> int:
        """How many numbers its weights are; none is computed."""
        leaves = tree_flatten(make_target(self.config).parameters())
        return sum(value.size for _, value in leaves)


RANDOM_TARGETS: dict[str, RandomTarget] = {
    "qwen3-22m": RandomTarget(_22M),
    "qwen3-100m": RandomTarget(_100M),
    "qwen3-tiny": RandomTarget(_TINY | {"model_type": "qwen3"}, 2.0),
    "mistral-tiny": RandomTarget(_TINY | {"model_type": "mistral", "sliding_window": 64}, 2.0),
    "qwen3_5-tiny": RandomTarget(_TINY | _LINEAR, 1.2),
    "qwen3_moe-tiny": RandomTarget(_TINY | _EXPERTS | {"model_type": "qwen3_moe"}, 2.0),
    "gpt_oss-tiny": RandomTarget(_TINY | _SINKS, 1.4),
    "lfm2-tiny": RandomTarget(_TINY | _CONVOLUTIONS, 1.5),
    "gemma3-tiny": RandomTarget(_TINY | _GEMMA3, 2.0),
    "gemma4-tiny": RandomTarget(_TINY | _GEMMA4, 2.0),
    "olmo2-tiny": RandomTarget(_TINY | {"model_type": "olmo2"}, 2.0),
    "qwen3-wide": RandomTarget(_WIDE | {"model_type": "qwen3"}, 2.0),
    "mistral-wide": RandomTarget(_WIDE | {"model_type": "mistral", "sliding_window": 256}, 2.0),
    "qwen3_5-wide": RandomTarget(_WIDE | _LINEAR, 1.2),
}


def find_random_target(name: str, vocab: int = 0) -> RandomTarget:
    """One by its name or by a config.json; ``vocab`` replaces the size of its vocabulary.

    Raises:
        BenchError: it is neither.
    """
    found = RANDOM_TARGETS.get(name) or RandomTarget(_shape(name))
    changes = {"vocab_size": vocab} if vocab else {}
    return RandomTarget(found.config | changes, found.factor)


def write_quantised(directory: Path, shape: RandomTarget, bits: int, group: int, seed: int) -> int:
    """A checkpoint of a random target with its matrices in MLX's affine form; its bytes.

    Raises:
        BenchError: MLX has no such form, or its groups do not divide the rows of a matrix.
    """
    weights: dict[str, mx.array] = {}
    for name, value in tree_flatten(shape.load(seed).parameters()):
        if value.ndim != 2:
            weights[name] = value
            continue
        try:
            parts = mx.quantize(value, group, bits)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise BenchError(f"{name} in {bits} bits by groups of {group}: {reason}") from error
        path = name.removesuffix(".weight")
        names = (f"{path}.{part}" for part in ("weight", "scales", "biases"))
        weights |= dict(zip(names, parts, strict=True))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, {"format": "mlx"})
    config = shape.config | {"quantization": {"group_size": group, "bits": bits}}
    (directory / "config.json").write_text(json.dumps(config))
    return sum(value.nbytes for value in weights.values())


def _shape(name: str) -> dict[str, Any]:
    if found := name_fault(name):
        raise BenchError(f"--random-target is {shown(name)}, but {found}")
    path = Path(name).expanduser()
    if not path.exists():
        known = ", ".join(RANDOM_TARGETS)
        raise BenchError(f"--random-target {name} is no config.json and none of: {known}")
    return text_config(read_config(path if path.is_dir() else path.parent))
