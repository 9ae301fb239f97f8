"""What config.json of a Mistral or Llama may say, and what of it is refused by name."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.loading import load_target
from tests.adapters.dense import DenseRows
from tests.adapters.feeding import PROMPT, feed
from tests.adapters.upstream import Upstream
from tests.tiny import MISTRAL, WINDOW, reconfigure, write_target

FULL, SLIDING = "full_attention", "sliding_attention"
WINDOWS: dict[str, tuple[dict[str, Any], list[int | None]]] = {
    "a Mistral's window is every layer's": ({}, [WINDOW] * 4),
    "null is no window": ({"sliding_window": None}, [None] * 4),
    "layer types say which slide": (
        {"layer_types": [SLIDING, FULL, SLIDING, FULL]},
        [WINDOW, None, WINDOW, None],
    ),
    "a Llama has none": ({"model_type": "llama"}, [None] * 4),
    "a Llama may have layer types": (
        {"model_type": "llama", "layer_types": [FULL, SLIDING, SLIDING, SLIDING]},
        [None, WINDOW, WINDOW, WINDOW],
    ),
}
ROPES: dict[str, dict[str, Any]] = {
    "rope_parameters": {
        "rope_theta": None,
        "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"},
    },
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
}
BAD: dict[str, dict[str, Any]] = {
    "layer 2 is of type 'chunked_attention'": {
        "layer_types": [FULL, FULL, "chunked_attention", FULL]
    },
    "layer_types has 3 entries for num_hidden_layers 4": {"layer_types": [FULL] * 3},
    "sliding_window is 0": {"sliding_window": 0},
    "sliding_window is '24'": {"sliding_window": "24"},
    "sliding_window is None": {"sliding_window": None, "layer_types": [SLIDING] * 4},
    "max_position_embeddings is missing": {"max_position_embeddings": None},
    "rope_type is 'dynamic'": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "rope_traditional is true": {"rope_traditional": True},
}


@pytest.mark.parametrize("name", WINDOWS)
def test_which_layers_slide(tmp_path: Path, name: str) -> None:
    changes, windows = WINDOWS[name]
    target = load_target(write_target(tmp_path, base=MISTRAL, **changes))
    assert target.cache_specs == tuple(
        AttentionSpec(2, 16, mx.float32, window) for window in windows
    )
    assert target.max_context == 512


@pytest.mark.parametrize("name", ROPES)
def test_the_rotation_is_that_of_mlx_lm(tmp_path: Path, name: str) -> None:
    directory = write_target(tmp_path, base=MISTRAL, sliding_window=None, **ROPES[name])
    theirs, target = Upstream(directory), load_target(directory)
    rows = DenseRows(target.cache_specs, 1)
    for tokens in (PROMPT, [3]):
        got = target.logits(feed(target, rows, [tokens]).hidden)
        assert mx.array_equal(got, theirs.logits(tokens)).item()


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, message: str) -> None:
    directory = write_target(tmp_path, base=MISTRAL)
    reconfigure(directory, **BAD[message])
    with pytest.raises(AdapterError, match=message):
        load_target(directory)


def test_a_head_that_a_config_does_not_tie_is_the_stored_one(tmp_path: Path) -> None:
    """Without ``tie_word_embeddings`` the head is the checkpoint's, as in transformers."""
    target = load_target(write_target(tmp_path, base=MISTRAL))
    stored = mx.load(str(tmp_path / "model.safetensors"))
    assert isinstance(stored, dict)
    hidden = mx.eye(64)
    assert mx.array_equal(target.logits(hidden), hidden @ stored["lm_head.weight"].T).item()
