"""What config.json of a gpt-oss may say, and what of it is refused by name."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.loading import load_target, make_target
from tests.tiny import WINDOW, write_target
from tests.tiny_models import FULL, GPT_OSS, SLIDING

BAD: dict[str, dict[str, Any]] = {
    "swiglu_limit is 6.0": {"swiglu_limit": 6.0},
    "attention_bias is False": {"attention_bias": False},
    "tie_word_embeddings is True": {"tie_word_embeddings": True},
    "layer 1 is of type 'chunked_attention'": {"layer_types": [FULL, "chunked_attention"] * 2},
    "layer_types has 2 entries for num_hidden_layers 4": {"layer_types": [SLIDING, FULL]},
    "sliding_window is None": {"sliding_window": None},
    "rope_type is 'dynamic'": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
}


@pytest.mark.parametrize("types", [None, [SLIDING, FULL] * 2, [FULL, SLIDING, SLIDING, FULL]])
def test_every_other_layer_slides_unless_layer_types_say_otherwise(types: list[str] | None) -> None:
    target = make_target(GPT_OSS | {"layer_types": types})
    windows = [WINDOW if kind == SLIDING else None for kind in types or [SLIDING, FULL] * 2]
    assert target.cache_specs == tuple(
        AttentionSpec(3, 8, mx.float32, window) for window in windows
    )
    assert (target.hidden_size, target.vocab_size, target.max_context) == (64, 96, 512)


def test_experts_stay_in_mxfp4(tmp_path: Path) -> None:
    """If asked to; the rest becomes float32 on a CPU, the router and sinks included."""
    target = load_target(write_target(tmp_path, base=GPT_OSS), CpuWeights.STORED)
    block = target.parameters()["model"]["layers"][0]
    experts = block["mlp"]["experts"]["gate_proj"]
    assert (experts["weight"].dtype, experts["scales"].dtype) == (mx.uint32, mx.uint8)
    assert block["mlp"]["router"]["weight"].dtype == mx.float32
    assert block["self_attn"]["sinks"].dtype == mx.float32


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_served_is_refused_by_name(message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        make_target(GPT_OSS | BAD[message])
