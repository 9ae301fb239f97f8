"""Training commands on a target with recurrent layers, whose text model is part of its config."""

import copy
from pathlib import Path

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.training.data.answers import read_answers
from tests.tiny import QWEN3_5, write_target
from tests.training.chat_target import WORDS, write_chat_target, write_rows
from tests.training.command import refused, shown
from tests.training.runs import World


def test_a_drafter_begins_with_the_layers_as_they_run(tmp_path: Path) -> None:
    """Not as they are stored: there the weights of norms are those minus one."""
    world = World.make(tmp_path, base=QWEN3_5)
    result = world.invoke("out", steps=1, lr=1e-9)
    assert result.exit_code == 0, result.output
    target = load_target(world.root / "target")
    drafter = load_drafter(world.root / "out", target).model
    for norm in (drafter.norm, drafter.hidden_norm, drafter.layers[0].input_layernorm):
        np.testing.assert_allclose(np.array(norm.weight), 1.0, atol=1e-3)
    stored = mx.load(str(world.root / "target" / "model.safetensors"))
    assert isinstance(stored, dict)
    mlp = stored["model.language_model.layers.2.mlp.up_proj.weight"]
    np.testing.assert_allclose(
        np.array(drafter.layers[0].mlp.up_proj.weight), np.array(mlp), rtol=1e-3, atol=1e-4
    )


def test_answers_are_as_long_as_the_text_models_context_allows(tmp_path: Path) -> None:
    target = write_chat_target(tmp_path / "target")
    config = copy.deepcopy(QWEN3_5)
    config["text_config"]["vocab_size"] = len(WORDS)
    config["eos_token_id"] = 1
    write_target(target, base=config)
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a b"}, {"prompt": "c"}])
    out = tmp_path / "out.jsonl"
    words = ["data", "--target", target, "--prompts", prompts, "--out", out, "--max-new", 6]
    shown(*words)
    assert sorted(answer.row for answer in read_answers(out)) == [0, 1]
    text = config["text_config"]["max_position_embeddings"]
    assert f"the target's context is {text}" in refused(*words, "--max-length", text + 1)
