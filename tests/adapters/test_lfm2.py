"""What config.json of an LFM2 may say, and what of it is refused by name."""

from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec, StateArray, StateSpec
from dflash_serve.adapters.loading import make_target
from tests.tiny_models import FULL, LFM2, LFM2_MOE

CONVOLVES = StateSpec((StateArray((2, 64), mx.float32),))
ATTENDS = AttentionSpec(2, 16, mx.float32)
BAD: dict[str, dict[str, Any]] = {
    "tie_embedding is False": {"tie_embedding": False},
    "tie_word_embeddings is False": {"tie_word_embeddings": False},
    "layer 3 is of type 'mamba'": {"layer_types": ["conv", "conv", FULL, "mamba"]},
    "layer_types has 2 entries for num_hidden_layers 4": {"layer_types": ["conv", FULL]},
    "rope_type is 'dynamic'": {
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}
    },
}


@pytest.mark.parametrize("base", [LFM2, LFM2_MOE], ids=["dense", "with experts"])
@pytest.mark.parametrize(
    "kinds", [{}, {"layer_types": None, "full_attn_idxs": [2]}], ids=["types", "indices"]
)
def test_layers_keep_the_last_inputs_of_a_convolution_or_keys_and_values(
    base: dict[str, Any], kinds: dict[str, Any]
) -> None:
    target = make_target(base | kinds)
    assert target.cache_specs == (CONVOLVES, CONVOLVES, ATTENDS, CONVOLVES)
    assert (target.hidden_size, target.vocab_size, target.max_context) == (64, 96, 512)


@pytest.mark.parametrize("base", [LFM2, LFM2_MOE], ids=["dense", "with experts"])
@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_served_is_refused_by_name(base: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        make_target(base | BAD[message])
