"""What config.json and the files of a Qwen3.5 may hold, and what is refused by name."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters import qwen3_5
from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec, StateArray, StateSpec
from dflash_serve.adapters.loading import load_target
from tests.adapters.caches import EngineRows
from tests.adapters.dense import DenseRows
from tests.adapters.feeding import PROMPT, feed
from tests.tiny import QWEN3_5, reconfigure, write_target

TEXT: dict[str, Any] = QWEN3_5["text_config"]
FULL, LINEAR = "full_attention", "linear_attention"
BAD: dict[str, dict[str, Any]] = {
    "layer 1 is of type 'mamba'": {"layer_types": [LINEAR, "mamba", LINEAR, FULL]},
    "layer 0 is of type 'full_attention', but full_attention_interval 4": {
        "layer_types": [FULL, LINEAR, LINEAR, LINEAR]
    },
    "layer_types has 2 entries": {"layer_types": [LINEAR, LINEAR]},
    "attn_output_gate is false": {"attn_output_gate": False},
    "rope_theta is missing": {"rope_parameters": {"partial_rotary_factor": 0.25}},
    "rope_type is 'dynamic'": {
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}
    },
}


def test_three_recurrent_layers_to_one_that_attends(tmp_path: Path) -> None:
    target = load_target(write_target(tmp_path, base=QWEN3_5))
    window = StateArray((3, 2 * 2 * 16 + 4 * 24), mx.float32)
    recurrent = StateSpec((window, StateArray((4, 24, 16), mx.float32)))
    assert target.cache_specs == (recurrent,) * 3 + (AttentionSpec(2, 16, mx.float32),)
    assert (target.hidden_size, target.vocab_size, target.max_context) == (64, 96, 512)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_ties_may_stand_at_the_top_or_with_the_text(
    tmp_path: Path, tied: bool, inside: bool
) -> None:
    text = {key: value for key, value in TEXT.items() if key != "tie_word_embeddings"}
    top = {key: value for key, value in QWEN3_5.items() if key != "tie_word_embeddings"}
    place = text if inside else top
    place["tie_word_embeddings"] = tied
    directory = write_target(tmp_path, base=top | {"text_config": text})
    stored = mx.load(str(directory / "model.safetensors"))
    assert isinstance(stored, dict)
    assert ("lm_head.weight" in stored) != tied
    head = stored["model.language_model.embed_tokens.weight" if tied else "lm_head.weight"]
    hidden = mx.eye(64)
    assert mx.array_equal(load_target(directory).logits(hidden), hidden @ head.T).item()


def test_a_text_model_alone_is_the_same_model(tmp_path: Path) -> None:
    whole = load_target(write_target(tmp_path / "whole", base=QWEN3_5))
    alone = load_target(write_target(tmp_path / "text", base=TEXT))
    assert whole.cache_specs == alone.cache_specs
    one, other = (
        feed(target, DenseRows(target.cache_specs, 1), [PROMPT]).hidden for target in (whole, alone)
    )
    assert mx.array_equal(one, other).item()


def test_the_rotation_may_be_described_beside_rope_parameters(tmp_path: Path) -> None:
    """At 4 of 16 dimensions and base 10,000 either way; another base is another model."""
    inside = load_target(write_target(tmp_path / "inside", base=TEXT))
    beside = {"rope_parameters": None, "partial_rotary_factor": 0.25}
    outputs = [feed(inside, DenseRows(inside.cache_specs, 1), [PROMPT]).hidden]
    for theta in (10000.0, 100000.0):
        directory = write_target(tmp_path / str(theta), base=TEXT | beside, rope_theta=theta)
        target = load_target(directory)
        outputs.append(feed(target, DenseRows(target.cache_specs, 1), [PROMPT]).hidden)
    assert mx.array_equal(outputs[0], outputs[1]).item()
    assert not mx.array_equal(outputs[0], outputs[2]).item()


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, message: str) -> None:
    directory = write_target(tmp_path, base=QWEN3_5)
    reconfigure(directory, text_config=TEXT | BAD[message])
    with pytest.raises(AdapterError, match=message):
        load_target(directory)


@pytest.mark.parametrize(
    ("name", "value"), [("hand_written", False), ("fits", False)], ids=["plain", "too large"]
)
def test_every_form_of_the_recurrence_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: bool
) -> None:
    """Held states, against mlx-lm's own loop or a replay: a prompt, cut blocks, a token."""
    target = load_target(write_target(tmp_path, base=QWEN3_5))

    def hidden() -> list[mx.array]:
        rows = EngineRows(target.cache_specs, 2)
        feed(target, rows, [PROMPT, PROMPT[:5]])
        found = [feed(target, rows, [[1, 2, 3, 4]] * 2, keep=[2, 0]).hidden]
        found.append(feed(target, rows, [[5]] * 2, keep=[1, 0]).hidden)
        return [*found, feed(target, rows, [[6, 7]] * 2).hidden]

    held = hidden()
    monkeypatch.setattr(qwen3_5, name, lambda *_: value)
    other = hidden()
    assert all(mx.array_equal(a, b).item() for a, b in zip(held, other, strict=True))
