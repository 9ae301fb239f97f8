"""What the small files of checkpoints say, and what the options may ask of them."""

import json
from pathlib import Path

import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.compose.cards import block_size, drafter_card, model_card
from dflash_serve.compose.directories import DEMO
from dflash_serve.compose.options import EngineOptions, OptionsError


def write(directory: Path, **config: object) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_an_end_token_that_the_model_has_no_logit_for_is_left_out(tmp_path: Path) -> None:
    target = write(tmp_path, max_position_embeddings=64, vocab_size=96)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 96, 2000]}))
    assert model_card(EngineOptions(), target).stop_tokens == {5}


@pytest.mark.parametrize("value", ["</s>", 1.5, [5, "</s>"], True, {"id": 5}], ids=str)
def test_an_end_token_that_is_no_id_is_named(tmp_path: Path, value: object) -> None:
    target = write(tmp_path, max_position_embeddings=64, vocab_size=96, eos_token_id=value)
    with pytest.raises(AdapterError, match=r"/config.json: eos_token_id is .*, but must be an int"):
        model_card(EngineOptions(), target)


def test_the_checkpoint_s_own_sampling_is_the_default(tmp_path: Path) -> None:
    target = write(tmp_path, max_position_embeddings=64, vocab_size=96)
    assert model_card(EngineOptions(), target).sampling.temperature == 1.0
    generation = tmp_path / "generation_config.json"
    generation.write_text(json.dumps({"temperature": 0.5, "top_k": 20}))
    drawn = model_card(EngineOptions(), target).sampling
    assert (drawn.temperature, drawn.top_k) == (0.5, 20)
    generation.write_text(json.dumps({"temperature": 0.5, "do_sample": False}))
    assert model_card(EngineOptions(), target).sampling.temperature == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", [1]),
        ("temperature", -1),
        ("top_p", float("nan")),
        ("top_k", "x"),
        ("top_k", float("inf")),
        ("min_p", True),
    ],
)
def test_a_default_that_makes_no_sense_is_named(tmp_path: Path, name: str, value: object) -> None:
    target = write(tmp_path, max_position_embeddings=64, vocab_size=96)
    (tmp_path / "generation_config.json").write_text(json.dumps({name: value}))
    with pytest.raises(OptionsError, match=rf"^generation_config.json: {name} is .* from -?\d to"):
        model_card(EngineOptions(), target)


def test_the_name_is_the_one_that_was_asked_for_unless_another_is_given(tmp_path: Path) -> None:
    target = write(tmp_path, max_position_embeddings=64, vocab_size=96)
    assert model_card(EngineOptions(), target).id == "dflash-demo"
    assert model_card(EngineOptions(target="a/b"), target).id == "a/b"
    assert model_card(EngineOptions(target="a/b"), target, "mine").id == "mine"


def test_a_context_beyond_the_model_s_is_refused_with_both(tmp_path: Path) -> None:
    target = write(tmp_path, max_position_embeddings=64, vocab_size=96)
    with pytest.raises(OptionsError, match=r"--max-context is 65, .* context is 64$"):
        model_card(EngineOptions(max_context=65), target)
    assert model_card(EngineOptions(max_context=64), target).max_context == 64


def test_the_text_model_s_own_part_counts(tmp_path: Path) -> None:
    target = write(tmp_path, text_config={"max_position_embeddings": 64, "vocab_size": 96})
    card = model_card(EngineOptions(), target)
    assert (card.max_context, card.vocab_size) == (64, 96)


def test_sizes_that_a_config_leaves_out_are_its_family_s(tmp_path: Path) -> None:
    target = write(tmp_path, model_type="gemma3", text_config={"model_type": "gemma3_text"})
    card = model_card(EngineOptions(), target)
    assert (card.max_context, card.vocab_size) == (131072, 262208)


@pytest.mark.parametrize("said", [{}, {"max_position_embeddings": None}], ids=str)
def test_a_context_that_nobody_says_is_asked_for(tmp_path: Path, said: dict[str, object]) -> None:
    target = write(tmp_path, vocab_size=96, **said)
    with pytest.raises(OptionsError, match="give --max-context"):
        model_card(EngineOptions(), target)
    assert model_card(EngineOptions(max_context=64), target).max_context == 64


def test_the_fingerprint_changes_with_the_weights(tmp_path: Path) -> None:
    target = write(tmp_path, max_position_embeddings=64, vocab_size=96)
    before = model_card(EngineOptions(), target).fingerprint
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert model_card(EngineOptions(), target).fingerprint != before


def test_without_a_drafter_the_block_is_one_token() -> None:
    card = drafter_card(EngineOptions(block_size=8), None)
    assert (card.name, card.block_size) == (None, 1)


def test_a_block_is_what_the_drafter_advises_or_what_is_asked_for() -> None:
    drafter = DEMO / "drafter"
    trained = json.loads((drafter / "config.json").read_text())["block_size"]
    assert drafter_card(EngineOptions(), drafter).name == "dflash-demo-drafter"
    assert 1 < block_size(EngineOptions(), drafter) <= trained
    assert block_size(EngineOptions(block_size=trained), drafter) == trained
    with pytest.raises(OptionsError, match=f"--block-size is {trained + 1}, .* {trained}$"):
        block_size(EngineOptions(block_size=trained + 1), drafter)
