"""Keys of a target's config.json: of the right type, and a quantisation that MLX can run."""

from typing import Any

import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.loading import make_target
from dflash_serve.adapters.target_config import check_quantization, check_types, text_config
from tests.tiny import MINISTRAL3, MISTRAL, MISTRAL3, QWEN3_5, QWEN3_5_MOE, TARGET
from tests.tiny_gemma import GEMMA3, GEMMA4, GEMMA4_UNIFIED

TYPES: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": "64"}, "hidden_size is '64', but must be a positive integer"),
    ({"hidden_size": 64.0}, "hidden_size is 64.0, but must be a positive integer"),
    ({"hidden_size": None}, "hidden_size is None, but must be a positive integer"),
    ({"num_hidden_layers": True}, "num_hidden_layers is True, but must be a positive integer"),
    ({"vocab_size": 0}, "vocab_size is 0, but must be a positive integer"),
    ({"head_dim": [16]}, r"head_dim is \[16\], but must be a positive integer or null"),
    ({"rope_theta": "1e6"}, "rope_theta is '1e6', but must be a positive number"),
    ({"rms_norm_eps": False}, "rms_norm_eps is False, but must be a positive number"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', but must be true or false"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, but must be at most 4096"),
    ({"vocab_size": 2**70}, "vocab_size is 1180591620717411303424, but must be at most 2147483647"),
    ({"num_key_value_heads": "2"}, "num_key_value_heads is '2', but must be a positive integer"),
    (
        {"num_experts_per_tok": "2"},
        "num_experts_per_tok is '2', but must be an integer from 0 or null",
    ),
    (
        {"num_experts": 4, "num_experts_per_tok": 5},
        "num_experts_per_tok is 5, but num_experts is 4",
    ),
    ({"final_logit_softcapping": [30]}, r"final_logit_softcapping is \[30\], but must be a posit"),
    ({"text_config": 7}, "text_config is 7, but must be an object"),
    ({"text_config": {"hidden_size": -1}}, "text_config.hidden_size is -1, but must be"),
]


@pytest.mark.parametrize(("changes", "message"), TYPES, ids=[str(c) for c, _ in TYPES])
def test_a_value_of_another_type_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=f"^target x: {message}"):
        check_types(TARGET | changes, "target x")


@pytest.mark.parametrize("config", [TARGET, MISTRAL, QWEN3_5], ids=lambda c: c["model_type"])
def test_configs_that_are_published_pass(config: dict[str, Any]) -> None:
    check_types(config, "target")
    check_types(config | {"num_experts_per_tok": 0}, "target")
    check_types(config | {"head_dim": None, "sliding_window": None, "extra": object()}, "target")


NESTED = [GEMMA3, GEMMA4, GEMMA4_UNIFIED, MINISTRAL3, MISTRAL3, QWEN3_5, QWEN3_5_MOE]


@pytest.mark.parametrize("config", NESTED, ids=lambda config: config["model_type"])
def test_the_text_model_s_part_makes_the_same_target(config: dict[str, Any]) -> None:
    text = text_config(config)
    assert "text_config" not in text
    alone, whole = make_target(text), make_target(config)
    assert alone.cache_specs == whole.cache_specs
    assert (alone.vocab_size, alone.max_context) == (whole.vocab_size, whole.max_context)


GEMMA3_4B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 106],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 24,
    },
}
"""The keys of gemma-3-4b-it, which leaves all else to its family, with small numbers."""


def test_sizes_that_a_config_leaves_out_are_those_of_its_family() -> None:
    text, target = text_config(GEMMA3_4B), make_target(GEMMA3_4B)
    assert text["vocab_size"] == target.vocab_size == 262208
    assert text["max_position_embeddings"] == target.max_context == 131072
    sizes = ("num_attention_heads", "num_key_value_heads", "head_dim")
    assert [text[key] for key in sizes] == [8, 4, 256]
    assert text["rope_theta"] == 1000000.0


def test_a_base_frequency_in_rope_parameters_is_not_hidden_by_a_default() -> None:
    config = {key: value for key, value in TARGET.items() if key != "rope_theta"}
    changes = {"model_type": "llama", "rope_parameters": {"rope_theta": 5e5}}
    assert "rope_theta" not in text_config(config | changes)


def affine(bits: Any = 4, group_size: Any = 64, **more: Any) -> dict[str, Any]:
    return {"bits": bits, "group_size": group_size, **more}


RUN: list[dict[str, Any] | None] = [
    None,
    affine(),
    affine(8, 32),
    affine(4, 32, mode="mxfp4"),
    affine() | {"model.embed_tokens": affine(8, 128), "lm_head": False},
]


@pytest.mark.parametrize("quantization", RUN, ids=str)
def test_quantisations_that_mlx_runs_pass(quantization: dict[str, Any] | None) -> None:
    check_quantization({"quantization": quantization}, "target")


REFUSED: list[tuple[Any, tuple[str, ...]]] = [
    (4, ("quantization is 4", "an object")),
    ({"bits": 4}, ("quantization.group_size is None",)),
    (affine(bits="4"), ("quantization.bits is '4'",)),
    (affine(7), ("mode 'affine'", "bits 7", "group_size 64")),
    (affine(4, 48), ("mode 'affine'", "bits 4", "group_size 48")),
    (affine(4, 64, mode="mxfp4"), ("mode 'mxfp4'", "group_size 64")),
    (affine(mode="spiral"), ("mode 'spiral'",)),
    (affine() | {"lm_head": affine(9)}, ("quantization.lm_head", "bits 9")),
    (affine() | {"lm_head": {"bits": 4}}, ("quantization.lm_head.group_size is None",)),
]


@pytest.mark.parametrize(("quantization", "named"), REFUSED, ids=[str(q) for q, _ in REFUSED])
def test_a_quantisation_that_mlx_cannot_run_is_named(
    quantization: Any, named: tuple[str, ...]
) -> None:
    with pytest.raises(AdapterError) as refused:
        check_quantization({"quantization": quantization}, "target x")
    message = str(refused.value)
    assert message.startswith("target x: ")
    assert "\n" not in message
    for part in named:
        assert part in message
