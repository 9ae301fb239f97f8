"""What config.json of a Mistral 3 may say of its text model, and what is refused by name."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.loading import load_target
from tests.tiny import MINISTRAL3, MISTRAL3, WINDOW, reconfigure, write_target

FULL, SLIDING = "full_attention", "sliding_attention"
TEXT: dict[str, Any] = MINISTRAL3["text_config"]
BAD: dict[str, dict[str, Any]] = {
    "text_config.model_type is 'mistral4'": {"model_type": "mistral4"},
    "layer 1 is of type 'chunked_attention'": {
        "layer_types": [FULL, "chunked_attention", FULL, FULL]
    },
    "rope_parameters has no llama_4_scaling_beta": {
        "rope_parameters": {"rope_theta": 1e4, "original_max_position_embeddings": 32}
    },
    "rope_type is 'dynamic'": {"rope_parameters": TEXT["rope_parameters"] | {"type": "dynamic"}},
    "max_position_embeddings is missing": {"max_position_embeddings": None},
}


@pytest.mark.parametrize(
    ("base", "changes", "windows"),
    [
        (MISTRAL3, {}, [WINDOW] * 4),
        (MISTRAL3, {"sliding_window": None}, [None] * 4),
        (MINISTRAL3, {}, [None] * 4),
        (
            MINISTRAL3,
            {"layer_types": [SLIDING, FULL, FULL, SLIDING], "sliding_window": WINDOW},
            [WINDOW, None, None, WINDOW],
        ),
    ],
)
def test_which_layers_slide(
    tmp_path: Path, base: dict[str, Any], changes: dict[str, Any], windows: list[int | None]
) -> None:
    target = load_target(
        write_target(tmp_path, base=base, text_config=base["text_config"] | changes)
    )
    assert target.cache_specs == tuple(
        AttentionSpec(2, 16, mx.float32, window) for window in windows
    )


def test_a_text_model_may_stand_alone(tmp_path: Path) -> None:
    target = load_target(write_target(tmp_path, base=TEXT))
    assert (target.num_layers, target.hidden_size, target.max_context) == (4, 64, 512)


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, message: str) -> None:
    directory = write_target(tmp_path, base=MINISTRAL3)
    reconfigure(directory, text_config=TEXT | BAD[message])
    with pytest.raises(AdapterError, match=message):
        load_target(directory)
