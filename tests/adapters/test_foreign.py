"""Drafters of other trainers load as they are, and their traps are refused in one line."""

import logging
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import AdapterError, TargetAdapter
from dflash_serve.adapters.checkpoint import read_weights
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import load_drafter, load_target, read_drafter_config
from tests.adapters.quantised import write_quantised
from tests.adapters.test_heads import CHOSEN, HEADS, REDUCED, write_head
from tests.tiny import DRAFTER, reconfigure, write_checkpoint, write_drafter, write_target

Weights = dict[str, mx.array]
INNER = DRAFTER["dflash_config"]
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "vocab_size",
    "max_position_embeddings",
    "rope_theta",
)
NETWORK = {key: DRAFTER[key] for key in SIZES}
TORCHSPEC = NETWORK | {
    "architectures": ["DFlashDraftModel"],
    "model_type": "dflash",
    "num_target_layers": 3,  # taps, not depth
    "target_hidden_size": 64,
    "target_num_hidden_layers": 4,
    "target_layer_ids": [0, 1, 2],
    "mask_token_id": 95,
}
SPECULATORS: dict[str, Any] = {
    "architectures": ["DFlashDraftModel"],
    "speculators_model_type": "dflash",
    "speculators_config": {"algorithm": "dflash", "verifier": {"name_or_path": "x"}},
    "transformer_layer_config": NETWORK | {"model_type": "qwen3"},
    "draft_vocab_size": 96,
    "block_size": 8,
    "aux_hidden_state_layer_ids": [1, 2, 3],  # the embedding is 0
    "mask_token_id": 95,
    "sliding_window_non_causal": False,
}
LLAMA_CPP = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture
def target(tmp_path: Path) -> TargetAdapter:
    return load_target(write_target(tmp_path / "target"))


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return read_weights(write_drafter(tmp_path / "published"))


def table_of(tmp_path: Path) -> mx.array:
    return read_weights(tmp_path / "target")["model.embed_tokens.weight"]


def of_torchspec(weights: Weights, table: mx.array) -> Weights:
    theirs = {"fc.": "context_proj.", "hidden_norm.": "context_norm.", "norm.": "final_norm."}
    renamed = {"draft_model.embed_tokens.weight": table}
    for name, value in weights.items():
        old = next((old for old in theirs if name.startswith(old)), "")
        renamed[f"draft_model.{theirs.get(old, '')}{name.removeprefix(old)}"] = value
    return renamed


def of_llama_cpp(weights: Weights) -> Weights:
    renamed = {}
    ends = {
        "fc.weight": "encoder.fc.weight",
        "hidden_norm.weight": "encoder.output_norm_enc.weight",
        "norm.weight": "output_norm.weight",
    }
    for name, value in weights.items():
        if name in ends:
            renamed[ends[name]] = value
            continue
        _, layer, part = name.removesuffix(".weight").split(".", 2)
        renamed[f"blk.{layer}.{LLAMA_CPP[part]}.weight"] = value
    return renamed


def same(drafter: DFlashDrafter, weights: Weights) -> None:
    held = dict(tree_flatten(drafter.model.parameters()))
    assert held.keys() == weights.keys()
    assert all(mx.array_equal(held[name], value).item() for name, value in weights.items())


def refused(directory: Path, target: TargetAdapter, *named: object) -> None:
    with pytest.raises(AdapterError) as error:
        load_drafter(directory, target)
    line = str(error.value)
    assert "\n" not in line
    for name in named:
        assert str(name) in line


def test_torchspec_loads_without_conversion(
    tmp_path: Path, target: TargetAdapter, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = of_torchspec(weights, table_of(tmp_path))
    directory = write_checkpoint(tmp_path / "theirs", TORCHSPEC, theirs)
    with caplog.at_level(logging.INFO, "dflash_serve"):
        drafter = load_drafter(directory, target)
    same(drafter, weights)
    line = "left out, the target's own: draft_model.embed_tokens.weight"
    assert any(line in message for message in caplog.messages)
    config = read_drafter_config(directory)
    assert (config.num_target_layers, config.target_layer_ids) == (4, (0, 1, 2))


def test_torchspecs_old_default_layers_are_refused(
    tmp_path: Path, target: TargetAdapter, weights: Weights
) -> None:
    config = TORCHSPEC | {"target_layer_ids": [0, 1, 3]}
    theirs = of_torchspec(weights, table_of(tmp_path))
    directory = write_checkpoint(tmp_path / "theirs", config, theirs)
    refused(directory, target, "[0, 1, 3]", "dflash-train convert", "--target-layers")


def test_llama_cpps_names_are_known(
    tmp_path: Path, target: TargetAdapter, weights: Weights
) -> None:
    directory = write_checkpoint(tmp_path / "theirs", DRAFTER, of_llama_cpp(weights))
    same(load_drafter(directory, target), weights)


def test_speculators_counts_tapped_layers_from_the_embedding(
    tmp_path: Path, target: TargetAdapter, weights: Weights
) -> None:
    table = table_of(tmp_path)
    theirs = weights | {"embed_tokens.weight": table, "lm_head.weight": table}
    directory = write_checkpoint(tmp_path / "theirs", SPECULATORS, theirs)
    drafter = load_drafter(directory, target)
    same(drafter, weights)
    assert drafter.target_layer_ids == (0, 1, 2)
    assert drafter.config.mask_token_id == 95
    assert drafter.block_size == read_drafter_config(directory).block_size == 8


def test_speculators_reduced_vocabulary_is_mapped_to_the_targets_tokens(
    tmp_path: Path, target: TargetAdapter
) -> None:
    published = write_head(tmp_path / "published", HEADS["reduced"])
    config = SPECULATORS | {"draft_vocab_size": REDUCED}
    directory = write_checkpoint(tmp_path / "theirs", config, read_weights(published))
    drafter = load_drafter(directory, target)
    assert drafter.target_ids is not None
    assert drafter.target_ids.tolist() == CHOSEN.tolist()
    assert drafter.config.own_head


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"aux_hidden_state_layer_ids": [0, 1, 2]}, ("[0, 1, 2]", "embedding")),
        ({"aux_hidden_state_layer_ids": "1"}, ("'1'",)),
        (
            {"dflash_config": {"target_layer_ids": [1, 2, 3]}},
            ("[1, 2, 3]", "layers [0, 1, 2]", "target_layer_ids"),
        ),
        ({"aux_hidden_state_layer_ids": [1, 2, 9]}, ("[8] outside the target's 4 layers",)),
        ({"projector_type": "domino"}, ("projector_type is 'domino'",)),
        ({"transformer_layer_config": [1]}, ("transformer_layer_config is [1]",)),
        ({"mask_token_id": None}, ("mask_token_id is missing",)),
    ],
)
def test_traps_of_speculators_are_refused(
    tmp_path: Path,
    target: TargetAdapter,
    weights: Weights,
    changes: dict[str, Any],
    named: tuple[str, ...],
) -> None:
    directory = write_checkpoint(tmp_path / "theirs", SPECULATORS | changes, weights)
    refused(directory, target, *named)


OFFSETS = (CHOSEN - np.arange(REDUCED)).astype(np.int64)
TABLES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no d2t": ({"d2t": None}, ("lacks d2t", "draft_vocab_size is 40")),
    "no head": ({"lm_head.weight": None}, ("lacks 1 tensor(s), first lm_head.weight",)),
    "a short d2t": ({"d2t": OFFSETS[:-1]}, ("d2t has shape [39]", "draft_vocab_size is 40")),
    "a token beyond": ({"d2t": OFFSETS + 60}, ("d2t gives token", "vocabulary has 96")),
    "a token below": ({"d2t": OFFSETS - 60}, ("d2t gives token -", "vocabulary has 96")),
    "a token twice": ({"d2t": OFFSETS * 0 - np.arange(40)}, ("1 different tokens for 40",)),
    "a short t2d": ({"t2d": np.ones(95, np.bool_)}, ("t2d has shape [95]", "vocab_size is 96")),
    "another t2d": (
        {"t2d": np.ones(96, np.bool_)},
        ("contradict", "t2d has 96 tokens", "d2t 40", "at token"),
    ),
    "a wide head": (
        {"lm_head.weight": np.ones((96, 64), np.float32)},
        ("lm_head.weight has shape [96, 64]", "[40, 64]"),
    ),
    "a narrow embedding": (
        {"embed_tokens.weight": np.ones((96, 32), np.float32)},
        ("embed_tokens.weight has shape [96, 32]", "[96, 64]"),
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_make_no_sense_are_refused_with_both_values(
    tmp_path: Path, target: TargetAdapter, name: str
) -> None:
    changes, named = TABLES[name]
    weights = read_weights(write_head(tmp_path / "theirs", HEADS["reduced"]))
    for tensor, value in changes.items():
        weights.pop(tensor, None)
        if value is not None:
            weights[tensor] = mx.array(value)
    mx.save_safetensors(str(tmp_path / "theirs" / "model.safetensors"), weights)
    refused(tmp_path / "theirs", target, *named)


def test_a_mapping_without_a_reduced_vocabulary_is_refused(
    tmp_path: Path, target: TargetAdapter
) -> None:
    directory = write_head(tmp_path / "theirs", HEADS["reduced"])
    weights = read_weights(directory)
    del weights["lm_head.weight"]
    mx.save_safetensors(str(directory / "model.safetensors"), weights)
    reconfigure(directory, draft_vocab_size=None)
    refused(directory, target, "d2t of shape [40]", "vocab_size 96")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_copy_of_a_quantised_targets_tables_is_not_the_drafters_own(
    tmp_path: Path, weights: Weights, bits: int
) -> None:
    """The drafter's publisher stored the unquantised ones."""
    table = read_weights(write_target(tmp_path / "whole"))["model.embed_tokens.weight"]
    target = load_target(write_quantised(tmp_path / "target", bits, tie_word_embeddings=True))
    both = weights | {"embed_tokens.weight": table, "lm_head.weight": table}
    drafter = load_drafter(write_checkpoint(tmp_path / "theirs", DRAFTER, both), target)
    same(drafter, weights)


def test_tables_that_differ_from_the_targets_are_the_drafters_own(
    tmp_path: Path, target: TargetAdapter, weights: Weights
) -> None:
    own = {name: mx.random.normal((96, 64)) for name in ("embed_tokens.weight", "lm_head.weight")}
    drafter = load_drafter(write_checkpoint(tmp_path / "theirs", DRAFTER, weights | own), target)
    same(drafter, weights | own)
    tokens = mx.array([[3, 95]])
    assert mx.array_equal(drafter.embed_block(tokens), own["embed_tokens.weight"][tokens]).item()
    rows = mx.random.normal((1, 2, 64))
    assert mx.allclose(drafter.logits(rows), rows @ own["lm_head.weight"].T, atol=1e-3).item()


def test_a_learned_mask_is_refused_as_a_file_and_as_a_tensor(
    tmp_path: Path, target: TargetAdapter, weights: Weights
) -> None:
    both = weights | {"mask_embedding": mx.zeros(64)}
    directory = write_checkpoint(tmp_path / "theirs", DRAFTER, both)
    refused(directory, target, "1 unexpected tensor(s), first mask_embedding")
    (directory / "mask_embedding.pt").touch()
    refused(directory, target, "has a mask_embedding.pt")


def test_numbers_that_are_none_are_refused_with_file_and_tensor(
    tmp_path: Path, target: TargetAdapter, weights: Weights
) -> None:
    fc = np.array(weights["fc.weight"])
    fc[3, 5] = np.nan
    directory = write_checkpoint(
        tmp_path / "theirs", DRAFTER, weights | {"fc.weight": mx.array(fc)}
    )
    refused(directory, target, "model.safetensors", "fc.weight", "1 value(s)")
