"""What config.json of a Qwen3 with experts may say, and what of it is refused by name."""

from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.loading import make_target
from tests.tiny_models import FULL, QWEN3_MOE, SLIDING

BAD: dict[str, dict[str, Any]] = {
    "use_sliding_window is true": {"use_sliding_window": True, "sliding_window": 24},
    "layer 1 is of type 'sliding_attention'": {"layer_types": [FULL, SLIDING] * 2},
    "rope_type is 'dynamic'": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
}


def test_all_layers_attend_to_all_tokens() -> None:
    target = make_target(QWEN3_MOE)
    assert target.cache_specs == (AttentionSpec(2, 16, mx.float32),) * 4


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_served_is_refused_by_name(message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        make_target(QWEN3_MOE | BAD[message])
