"""What config.json and a checkpoint of a Gemma may say, and what is refused by name."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.loading import load_drafter, load_target
from tests.adapters.dense import DenseRows
from tests.adapters.feeding import PROMPT, feed
from tests.adapters.upstream import Upstream
from tests.tiny import DRAFTER, WINDOW, reconfigure, write_drafter, write_target
from tests.tiny_gemma import GEMMA3, GEMMA3_TEXT, GEMMA4, GEMMA4_SMALL

FULL, SLIDING = "full_attention", "sliding_attention"
SLIDES = AttentionSpec(2, 16, mx.float32, WINDOW)
TEXT3: dict[str, Any] = GEMMA3["text_config"]
TEXT4: dict[str, Any] = GEMMA4["text_config"]
BAD3: dict[str, dict[str, Any]] = {
    "layer 1 is of type 'chunked_attention'": {
        "layer_types": [FULL, "chunked_attention", FULL, FULL]
    },
    "layer_types has 1 entries for num_hidden_layers 4": {"layer_types": [FULL]},
    "sliding_window is None, but sliding layers need a number": {"sliding_window": None},
    "attn_logit_softcapping is 50.0": {"attn_logit_softcapping": 50.0},
    "final_logit_softcapping is 30.0": {"final_logit_softcapping": 30.0},
    "hidden_activation is 'silu'": {"hidden_activation": "silu"},
    "use_bidirectional_attention is True": {"use_bidirectional_attention": True},
    "rope_parameters has no rope_theta for full_attention": {"rope_parameters": {"factor": 8.0}},
    "rope_type is 'longrope'": {"rope_scaling": {"rope_type": "longrope", "factor": 8.0}},
}
BAD4: dict[str, dict[str, Any]] = {
    "layer 3 is of type 'linear_attention'": {
        "layer_types": [SLIDING, SLIDING, FULL, "linear_attention"]
    },
    "layer_types has 0 entries for num_hidden_layers 4": {"layer_types": None},
    "sliding_window is None, but sliding layers need a number": {"sliding_window": None},
    "per_layer_config is": {"per_layer_config": {"3": {"head_dim": 32}}},
    "use_bidirectional_attention is 'all'": {"use_bidirectional_attention": "all"},
    "num_experts is missing, but enable_moe_block is true": {"enable_moe_block": True},
    "num_kv_shared_layers is 1, but no layer before those": {"num_kv_shared_layers": 1},
    "rope_parameters has no rope_theta for sliding_attention": {
        "rope_parameters": TEXT4["rope_parameters"] | {SLIDING: {}}
    },
    "rope_type is 'longrope'": {
        "rope_parameters": TEXT4["rope_parameters"]
        | {FULL: {"rope_type": "longrope", "rope_theta": 1e6}}
    },
}


@pytest.mark.parametrize(
    ("base", "specs"),
    [
        (GEMMA3, [SLIDES, SLIDES, AttentionSpec(2, 16, mx.float32), SLIDES]),
        (GEMMA4, [SLIDES, SLIDES, SLIDES, AttentionSpec(1, 32, mx.float32)]),
        (GEMMA4_SMALL, [SLIDES, AttentionSpec(2, 32, mx.float32)] * 2),
    ],
)
def test_each_kind_of_layer_has_heads_and_a_window_of_its_own(
    tmp_path: Path, base: dict[str, Any], specs: list[AttentionSpec]
) -> None:
    assert load_target(write_target(tmp_path, base=base)).cache_specs == tuple(specs)


@pytest.mark.parametrize("base", [GEMMA3, GEMMA4])
def test_the_embedding_scale_is_rounded_as_in_mlx_lm(tmp_path: Path, base: dict[str, Any]) -> None:
    """The root of 96 is not a number of bfloat16, in which Gemma 3 has it."""
    wide = base["text_config"] | {"hidden_size": 96}
    directory = write_target(tmp_path, base=base, text_config=wide)
    target, upstream = load_target(directory), Upstream(directory)
    captured = feed(target, DenseRows(target.cache_specs, 1), [PROMPT], (0,))
    after = upstream.residuals(PROMPT)
    assert mx.array_equal(captured.taps, after[0]).item()
    assert mx.array_equal(captured.hidden, after[-1]).item()


def test_logits_are_capped_and_those_of_a_drafter_once(tmp_path: Path) -> None:
    """A drafter's config has a cap of its own; both at once would bend its logits twice."""
    changes = TEXT4 | {"final_logit_softcapping": 2.0}
    target = load_target(write_target(tmp_path / "target", base=GEMMA4, text_config=changes))
    inner = DRAFTER["dflash_config"] | {"final_logit_softcapping": 5.0}
    drafter = load_drafter(write_drafter(tmp_path / "drafter", dflash_config=inner), target)
    rows = 9.0 * mx.random.normal((7, 64))
    bare = rows @ target.embed(mx.arange(96)).T / 8.0
    assert mx.allclose(target.head(rows), bare, atol=1e-4).item()
    assert mx.allclose(target.logits(rows), 2.0 * mx.tanh(bare / 2.0), atol=1e-4).item()
    assert mx.allclose(drafter.logits(rows), 5.0 * mx.tanh(bare / 5.0), atol=1e-4).item()
    assert mx.abs(bare).max().item() > 5.0


def test_a_head_that_is_stored_is_used(tmp_path: Path) -> None:
    """As conversions of earlier versions of mlx-lm have it, next to the embedding."""
    directory = write_target(tmp_path, base=GEMMA3)
    path = str(directory / "model.safetensors")
    weights = mx.load(path)
    assert isinstance(weights, dict)
    assert not any("lm_head" in name for name in weights)
    mx.eval(weights)
    head = mx.random.normal((96, 64))
    mx.save_safetensors(path, weights | {"language_model.lm_head.weight": head})
    rows = mx.random.normal((2, 64))
    assert mx.allclose(load_target(directory).logits(rows), rows @ head.T, atol=1e-4).item()


def test_a_config_of_transformers_5_says_the_same(tmp_path: Path) -> None:
    """Types of layers and a rotation for each, in place of a pattern and two frequencies."""
    gone = ("rope_local_base_freq", "rope_scaling", "rope_theta", "sliding_window_pattern")
    newer = {key: value for key, value in TEXT3.items() if key not in gone} | {
        "_sliding_window_pattern": 3,
        "layer_types": [SLIDING, SLIDING, FULL, SLIDING],
        "rope_parameters": {
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
        },
    }
    directory = write_target(tmp_path, base=GEMMA3)
    older = load_target(directory)
    reconfigure(directory, text_config=newer)
    same = load_target(directory)
    assert same.cache_specs == older.cache_specs
    one, other = (
        feed(target, DenseRows(target.cache_specs, 1), [PROMPT]).hidden for target in (older, same)
    )
    assert mx.array_equal(one, other).item()


def test_what_is_not_said_is_as_in_transformers(tmp_path: Path) -> None:
    """The configs of the larger Gemma 3 leave most of it out."""
    left_out = ("max_position_embeddings", "rope_local_base_freq", "rope_theta", "rms_norm_eps")
    short = {key: value for key, value in GEMMA3_TEXT.items() if key not in left_out}
    target = load_target(write_target(tmp_path, base=GEMMA3, text_config=short))
    assert (target.max_context, target.vocab_size) == (131072, 96)


@pytest.mark.parametrize(
    ("base", "text", "message"),
    [(GEMMA3, TEXT3 | bad, message) for message, bad in BAD3.items()]
    + [(GEMMA4, TEXT4 | bad, message) for message, bad in BAD4.items()],
)
def test_what_cannot_be_served_is_refused_by_name(
    tmp_path: Path, base: dict[str, Any], text: dict[str, Any], message: str
) -> None:
    directory = write_target(tmp_path, base=base)
    reconfigure(directory, text_config=text)
    with pytest.raises(AdapterError, match=message):
        load_target(directory)
