"""Drafters of other trainers become ours, tensor by tensor, or are refused in one line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.checkpoint import read_config, read_weights
from dflash_serve.adapters.foreign import detect
from dflash_serve.adapters.loading import load_drafter, load_target, read_drafter_config
from tests.adapters.test_foreign import SPECULATORS
from tests.adapters.test_heads import HEADS, write_head
from tests.tiny import (
    DRAFTER,
    TARGET,
    reconfigure,
    write_checkpoint,
    write_drafter,
    write_target,
)
from tests.training import command
from tests.training.command import shown

Weights = dict[str, mx.array]

INNER = DRAFTER["dflash_config"]
TORCHSPEC = {key: value for key, value in DRAFTER.items() if key in TARGET} | {
    "architectures": ["DFlashDraftModel"],
    "model_type": "dflash",
    "num_hidden_layers": 2,
    "num_target_layers": 3,  # taps, not depth
    "target_hidden_size": 64,
    "target_num_hidden_layers": 4,
    "target_layer_ids": [0, 1, 2],
    "mask_token_id": 95,
}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write_target(tmp_path / "target")


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return read_weights(write_drafter(tmp_path / "published"))


def run(source: Path, target: Path, out: Path, *options: object) -> str:
    told = shown("convert", source, "--target", target, "--out", out, *options)
    return " ".join(told.split())


def refused(source: Path, target: Path, out: Path, *options: object) -> str:
    line = command.refused("convert", source, "--target", target, "--out", out, *options)
    assert not out.exists()
    return line


def torchspec_names(weights: Weights, target: Path) -> Weights:
    theirs = {"fc.": "context_proj.", "hidden_norm.": "context_norm.", "norm.": "final_norm."}
    renamed = {}
    for name, value in weights.items():
        old = next((old for old in theirs if name.startswith(old)), "")
        renamed[f"draft_model.{theirs.get(old, '')}{name.removeprefix(old)}"] = value
    table = read_weights(target)["model.embed_tokens.weight"]
    return renamed | {"draft_model.embed_tokens.weight": table}


def same(directory: Path, weights: Weights) -> None:
    stored = read_weights(directory)
    assert stored.keys() == weights.keys()
    assert all(mx.array_equal(stored[name], value) for name, value in weights.items())


def test_torchspec_names_and_counts_are_translated(
    target: Path, weights: Weights, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "theirs", TORCHSPEC, torchspec_names(weights, target))
    output = run(source, target, tmp_path / "ours")
    assert "torchspec" in output
    assert "draft_model.embed_tokens.weight" in output
    same(tmp_path / "ours", weights)
    config = read_config(tmp_path / "ours")
    assert config["model_type"] == "qwen3"
    assert config["num_target_layers"] == 4
    assert config["dflash_config"]["target_layer_ids"] == [0, 1, 2]
    assert "target_num_hidden_layers" not in config
    drafter = load_drafter(tmp_path / "ours", load_target(target))
    assert drafter.block_size == 16


def test_torchspec_without_layer_ids_has_the_published_spread(
    target: Path, weights: Weights, tmp_path: Path
) -> None:
    config = {key: value for key, value in TORCHSPEC.items() if key != "target_layer_ids"}
    deep = write_target(tmp_path / "deep", num_hidden_layers=12)
    source = write_checkpoint(
        tmp_path / "theirs",
        config | {"target_num_hidden_layers": 12},
        torchspec_names(weights, deep),
    )
    run(source, deep, tmp_path / "ours")
    assert read_drafter_config(tmp_path / "ours").target_layer_ids == (1, 5, 9)


def test_torchspecs_old_default_layers_are_refused_until_named(
    target: Path, weights: Weights, tmp_path: Path
) -> None:
    source = write_checkpoint(
        tmp_path / "theirs",
        TORCHSPEC | {"target_layer_ids": [0, 1, 3]},
        torchspec_names(weights, target),
    )
    line = refused(source, target, tmp_path / "ours")
    assert "[0, 1, 3]" in line
    assert "--target-layers" in line
    run(source, target, tmp_path / "ours", "--target-layers", "0,1,2")
    assert read_drafter_config(tmp_path / "ours").target_layer_ids == (0, 1, 2)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ({}, {"loss_type": "vp_drafter", "prefix_weight_base": None}),
        ({"training_mode": "vp_drafter"}, {}),
        ({}, {"training_mode": "vp_drafter", "prefix_weight_base": 0.9}),
    ],
)
def test_a_vp_drafter_keeps_its_mode_wherever_it_is_said(
    outer: dict[str, Any], inner: dict[str, Any], target: Path, weights: Weights, tmp_path: Path
) -> None:
    config = {key: value for key, value in DRAFTER.items() if key != "rope_theta"} | {
        "dflash_config": INNER | inner,
        "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"},
        "torch_dtype": "bfloat16",
    }
    source = write_checkpoint(tmp_path / "theirs", config | outer, weights)
    run(source, target, tmp_path / "ours", "--dtype", "bfloat16")
    written = read_config(tmp_path / "ours")
    assert written["dflash_config"]["training_mode"] == "vp_drafter"
    assert written["dflash_config"]["prefix_weight_base"] == 0.9
    assert (written["rope_theta"], written["rope_scaling"]) == (5000.0, None)
    assert written["dtype"] == "bfloat16"
    assert not {"rope_parameters", "torch_dtype", "training_mode"} & written.keys()


OWN_PARTS = {
    "reduced": "lm_head.weight, d2t",
    "reduced dspark": "lm_head.weight, d2t",
    "own tables": "embed_tokens.weight, lm_head.weight",
}


@pytest.mark.parametrize("name", OWN_PARTS)
def test_heads_and_tables_of_its_own_are_kept(name: str, target: Path, tmp_path: Path) -> None:
    """What is converted drafts as the source does; it may be converted again, and exported."""
    source = write_head(tmp_path / "theirs", HEADS[name])
    assert f"the drafter's own, kept: {OWN_PARTS[name]}" in run(source, target, tmp_path / "ours")
    loaded = load_target(target)
    held, wanted = (
        dict(tree_flatten(load_drafter(path, loaded).model.parameters()))
        for path in (tmp_path / "ours", source)
    )
    assert held.keys() == wanted.keys()
    assert all(mx.array_equal(held[part], wanted[part]).item() for part in wanted)
    assert "tables of its own" in (tmp_path / "ours" / "README.md").read_text()
    run(tmp_path / "ours", target, tmp_path / "twice")
    shown("export", tmp_path / "ours", "--out", tmp_path / "thrice", "--dtype", "float32")
    for again in ("twice", "thrice"):
        for file in ("config.json", "model.safetensors"):
            content = (tmp_path / again / file).read_bytes()
            assert content == (tmp_path / "ours" / file).read_bytes()


def test_a_reduced_head_without_its_size_in_the_config_is_refused(
    target: Path, tmp_path: Path
) -> None:
    source = write_head(tmp_path / "theirs", HEADS["reduced"])
    reconfigure(source, draft_vocab_size=None)
    line = refused(source, target, tmp_path / "ours")
    assert "lm_head.weight has shape [40, 64]" in line


def test_tables_are_not_guessed_without_the_targets(
    target: Path, weights: Weights, tmp_path: Path
) -> None:
    """A drafter without tables needs the target's config.json alone."""
    theirs = torchspec_names(weights, target)
    source = write_checkpoint(tmp_path / "theirs", TORCHSPEC, theirs)
    (target / "model.safetensors").unlink()
    line = refused(source, target, tmp_path / "ours")
    assert "stores draft_model.embed_tokens.weight" in line
    assert "has no weights to compare" in line
    del theirs["draft_model.embed_tokens.weight"]
    run(write_checkpoint(source, TORCHSPEC, theirs), target, tmp_path / "ours")
    same(tmp_path / "ours", weights)


def test_a_bare_checkpoint_is_completed_and_stays_as_it_is_then(
    target: Path, weights: Weights, tmp_path: Path
) -> None:
    """What its tensors and its target say need not be in the config."""
    known = ("architectures", "num_target_layers", "head_dim", "max_position_embeddings")
    config = {key: value for key, value in DRAFTER.items() if key not in (*known, "layer_types")}
    names = {f"model.{name}": value for name, value in weights.items()}
    source = write_checkpoint(tmp_path / "bare", config, names)
    run(source, target, tmp_path / "once", "--block-size", 8, "--runtime-block-size", 4)
    same(tmp_path / "once", weights)
    drafter = load_drafter(tmp_path / "once", load_target(target))
    assert (drafter.block_size, drafter.runtime_block_size) == (8, 4)
    run(tmp_path / "once", target, tmp_path / "twice")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_aliases_and_module_names_are_known(target: Path, weights: Weights, tmp_path: Path) -> None:
    other = {
        "fc.weight": "encoder.fc.weight",
        "hidden_norm.weight": "encoder.output_norm_enc.weight",
    }
    source = write_checkpoint(
        tmp_path / "theirs", DRAFTER, {other.get(name, name): weights[name] for name in weights}
    )
    run(source, target, tmp_path / "ours")
    same(tmp_path / "ours", weights)


def test_codebooks_lose_the_name_that_torch_gives_them(target: Path, tmp_path: Path) -> None:
    sizes = {"conv_kernel_size": 2, "conv_group_size": 16, "selector_rank": 4, "selector_top_k": 3}
    config = DRAFTER | {"architectures": ["DFlash2DraftModel"], "dflash_config": INNER | sizes}
    weights = read_weights(write_drafter(tmp_path / "published", **config))
    theirs = {
        f"{name}.weight" if name.endswith("codebook") else name: value
        for name, value in weights.items()
    }
    unnamed = {key: value for key, value in config.items() if key != "architectures"}
    run(write_checkpoint(tmp_path / "theirs", unnamed, theirs), target, tmp_path / "ours")
    same(tmp_path / "ours", weights)
    assert read_drafter_config(tmp_path / "ours").selector_rank == 4


@pytest.mark.parametrize("name", ["dspark", "dspark, as DeepSpec writes it"])
def test_a_shifted_head_keeps_its_block_and_its_heads(
    name: str, target: Path, tmp_path: Path
) -> None:
    """The stored size does not count the anchor, which predicts a token here."""
    source = write_head(tmp_path / "theirs", HEADS[name])
    run(source, target, tmp_path / "ours")
    same(tmp_path / "ours", read_weights(source))
    config = read_config(tmp_path / "ours")
    assert config["architectures"] == ["DSparkDraftModel"]
    assert config["block_size"] == config["dflash_config"]["block_size"] == 5
    drafter = load_drafter(tmp_path / "ours", load_target(target))
    assert (drafter.block_size, drafter.config.markov_rank) == (6, 8)


def test_speculators_layers_and_sizes_are_translated(
    target: Path, weights: Weights, tmp_path: Path
) -> None:
    run(write_checkpoint(tmp_path / "theirs", SPECULATORS, weights), target, tmp_path / "ours")
    same(tmp_path / "ours", weights)
    config = read_config(tmp_path / "ours")
    assert config["dflash_config"]["target_layer_ids"] == [0, 1, 2]
    assert "transformer_layer_config" not in config
    load_drafter(tmp_path / "ours", load_target(target))


def test_a_config_may_lie_elsewhere(target: Path, weights: Weights, tmp_path: Path) -> None:
    mx.save_safetensors(str(tmp_path / "drafter.safetensors"), weights)
    (tmp_path / "their.json").write_text(json.dumps(DRAFTER))
    source, out = tmp_path / "drafter.safetensors", tmp_path / "ours"
    assert "--config" in refused(source, target, out)
    run(source, target, out, "--config", tmp_path / "their.json")
    same(out, weights)


def _torch_file(source: Path) -> None:
    (source / "model.safetensors").rename(source / "model.pt")


def _distributed(source: Path) -> None:
    (source / "model.safetensors").unlink()
    (source / "model").mkdir()
    (source / "model" / "__0_0.distcp").write_bytes(b"")


def _short(source: Path) -> None:
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _shard_gone(source: Path) -> None:
    (source / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "gone.safetensors"}}'
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_torch_file, "can only be read with PyTorch"),
        (_distributed, "distributed checkpoint"),
        (_short, "model.safetensors is damaged"),
        (_shard_gone, "lacks 1 shard(s): gone.safetensors"),
        (lambda source: (source / "config.json").unlink(), "has no config.json"),
        (lambda source: (source / "config.json").write_text("{"), "cannot be read"),
        (lambda source: (source / "model.safetensors").unlink(), "holds no .safetensors"),
        (lambda source: (source / "mask_embedding.pt").touch(), "has a mask_embedding.pt"),
    ],
)
def test_broken_sources_are_refused_in_one_line(
    spoil: Callable[[Path], None],
    message: str,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    source = write_drafter(tmp_path / "source")
    spoil(source)
    assert message in refused(source, target, tmp_path / "ours")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["EagleModel"]}, "drafter architecture 'EagleModel' is not supported"),
        ({"num_target_layers": 5}, "num_target_layers is 5, target num_hidden_layers is 4"),
        ({"vocab_size": 95, "dflash_config": INNER | {"mask_token_id": 94}}, "vocab_size is 95"),
        ({"num_hidden_layers": 1, "layer_types": None}, "unexpected tensor(s), first layers.1."),
        ({"num_hidden_layers": 3, "layer_types": None}, "lacks 11 tensor(s), first layers.2."),
        ({"intermediate_size": 95}, "has shape [96, 64], but its config says [95, 64]"),
        ({"dflash_config": {"target_layer_ids": [0, 1, 2]}}, "mask_token_id is missing"),
        ({"dflash_config": INNER | {"markov_rank": 4}}, "lacks 2 tensor(s), first markov_head."),
        ({"draft_vocab_size": 32}, "lacks d2t, but its draft_vocab_size is 32"),
        ({"head_dim": 10**9}, "no network can have its sizes"),
        ({"architectures": "DFlashDraftModel"}, "architectures is 'DFlashDraftModel'"),
        ({"model_type": "dflash", "target_hidden_size": 32}, "target_hidden_size is 32"),
        ({"model_type": "dflash", "target_num_hidden_layers": "4"}, "hidden_layers is '4'"),
        ({"model_type": "dflash", "dflash_config": INNER | {"target_layer_ids": 3}}, "ids is 3"),
    ],
)
def test_misfits_are_refused_in_one_line(
    config: dict[str, Any], message: str, target: Path, weights: Weights, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "source", DRAFTER | config, weights)
    assert message in refused(source, target, tmp_path / "ours")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "eagle"), "--from is eagle, but should be 'z-lab', 'torchspec', 'specforge'"),
        (("--runtime-block-size", 17), "runtime_block_size is 17, but block_size is 16"),
        (("--target-layers", "0,1,9"), "target_layer_ids [9] outside"),
        (("--target-layers", "0,1"), "fc.weight has shape [64, 192]"),
        (("--mask-token", 96), "mask_token_id is 96"),
        (("--dtype", "int8"), "--dtype is int8, but should be 'float16'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: tuple[object, ...], message: str, target: Path, tmp_path: Path
) -> None:
    source = write_drafter(tmp_path / "source")
    assert message in refused(source, target, tmp_path / "ours", *options)


def test_two_tensors_of_one_name_are_refused(
    target: Path, weights: Weights, tmp_path: Path
) -> None:
    both = weights | {"context_proj.weight": weights["fc.weight"]}
    source = write_checkpoint(tmp_path / "source", DRAFTER, both)
    line = refused(source, target, tmp_path / "ours")
    assert "context_proj.weight and fc.weight are both fc.weight" in line


@pytest.mark.parametrize(
    ("config", "names", "kind"),
    [
        (DRAFTER, ["fc.weight"], "z-lab"),
        ({"model_type": "dflash"}, [], "torchspec"),
        ({"aux_hidden_state_layer_ids": [1]}, ["fc.weight"], "speculators"),
        ({}, ["draft_model.context_proj.weight"], "torchspec"),
        ({"dflash_config": {"loss_type": "dpace"}}, ["fc.weight"], "specforge"),
    ],
)
def test_kinds_are_told_apart(config: dict[str, Any], names: list[str], kind: str) -> None:
    assert detect(config, names) == kind
