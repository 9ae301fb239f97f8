"""Checkpoints on disk: every good layout loads, every bad one is a single clear line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import read_weights, resolve
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import load_drafter, load_target
from tests.adapters.dense import DenseRows
from tests.adapters.feeding import PROMPT, feed
from tests.adapters.quantised import write_quantised
from tests.tiny import DRAFTER, reconfigure, write_drafter, write_target

Weights = dict[str, mx.array]
Damage = Callable[[Path], object]


def one_line(error: AdapterError, *named: object) -> None:
    message = str(error)
    assert "\n" not in message
    assert len(message) < 600
    for name in named:
        assert str(name) in message


def rewrite(directory: Path, change: Callable[[Weights], object]) -> None:
    """Apply ``change`` to the tensors of a checkpoint on disk."""
    path = directory / "model.safetensors"
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    change(weights)
    mx.save_safetensors(str(path), weights)


def shard(directory: Path) -> None:
    """Split model.safetensors in two, with an index, as large checkpoints are."""
    whole = directory / "model.safetensors"
    weights = dict(mx.load(str(whole)))
    mx.eval(weights)
    names = sorted(weights)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, held in parts.items():
        mx.save_safetensors(str(directory / file), {name: weights[name] for name in held})
    whole.unlink()
    placed = {name: file for file, held in parts.items() for name in held}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def hidden(directory: Path) -> mx.array:
    target = load_target(directory)
    return feed(target, DenseRows(target.cache_specs, 1), [PROMPT]).hidden


def test_shards_with_an_index_equal_one_file(tmp_path: Path) -> None:
    want = hidden(write_target(tmp_path))
    shard(tmp_path)
    assert mx.array_equal(hidden(tmp_path), want).item()
    drafter = write_drafter(tmp_path / "drafter")
    shard(drafter)
    assert load_drafter(drafter, load_target(tmp_path)).block_size == 16


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_computes_in_float32_on_a_cpu(tmp_path: Path, dtype: mx.Dtype) -> None:
    def halve(weights: Weights) -> None:
        weights.update({name: value.astype(dtype) for name, value in weights.items()})

    def widen(weights: Weights) -> None:
        weights.update({name: value.astype(mx.float32) for name, value in weights.items()})

    target_path, drafter_path = write_target(tmp_path / "t"), write_drafter(tmp_path / "d")
    for path in (target_path, drafter_path):
        rewrite(path, halve)
    target = load_target(target_path)
    drafter = load_drafter(drafter_path, target)
    assert target.dtype == drafter.dtype == mx.float32
    half = hidden(target_path)
    rewrite(target_path, widen)
    assert mx.array_equal(half, hidden(target_path)).item()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantised_target_lends_its_drafter_its_own_embedding_and_head(
    tmp_path: Path, bits: int, tied: bool
) -> None:
    directory = write_quantised(tmp_path, bits, tie_word_embeddings=tied)
    target = load_target(directory)
    drafter = load_drafter(write_drafter(tmp_path / "drafter"), target)
    assert isinstance(drafter, DFlashDrafter)
    assert target.dtype == mx.float32
    tokens = mx.array([[3, 95, 95]])
    rows = drafter.embed_block(tokens)
    assert mx.array_equal(rows, target.embed(tokens)).item()
    weights = dict(mx.load(str(directory / "model.safetensors")))
    table = [
        weights[f"model.embed_tokens.{name}"][tokens] for name in ("weight", "scales", "biases")
    ]
    want = mx.dequantize(*table, group_size=32, bits=bits)
    assert mx.allclose(rows, want, atol=1e-5).item()
    normed = drafter.model.norm(rows)
    assert mx.array_equal(drafter.logits(normed), target.logits(normed)).item()
    head = "model.embed_tokens" if tied else "lm_head"
    table = [weights[f"{head}.{name}"] for name in ("weight", "scales", "biases")]
    want = normed @ mx.dequantize(*table, group_size=32, bits=bits).T
    assert mx.allclose(target.logits(normed), want, atol=1e-2).item()


def test_tensors_that_belong_to_the_target_are_left_out_of_a_drafter(tmp_path: Path) -> None:
    """Some publishers store them, and some put every name under ``model.``."""
    target = load_target(write_target(tmp_path / "t"))
    path = write_drafter(tmp_path / "d")

    def dress(weights: Weights) -> None:
        named = {f"model.{name}": value for name, value in weights.items()}
        weights.clear()
        table = read_weights(tmp_path / "t")["model.embed_tokens.weight"].astype(mx.bfloat16)
        extras = {"model.embed_tokens.weight": table, "lm_head.weight": table}
        mapping = {"d2t": mx.zeros(96, dtype=mx.int64), "t2d": mx.ones(96, dtype=mx.bool_)}
        weights.update(named | extras | mapping)

    bare = load_drafter(path, target)
    rewrite(path, dress)
    dressed = load_drafter(path, target)
    assert isinstance(bare, DFlashDrafter)
    assert isinstance(dressed, DFlashDrafter)
    assert mx.array_equal(bare.model.fc.weight, dressed.model.fc.weight).item()


def _truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(at: int) -> Damage:
    def flip(directory: Path) -> None:
        path = directory / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[at] ^= 0xFF
        path.write_bytes(content)

    return flip


def _config(text: str | bytes) -> Damage:
    content = text.encode() if isinstance(text, str) else text
    return lambda directory: (directory / "config.json").write_bytes(content)


def _index(text: str) -> Damage:
    return lambda directory: (directory / "model.safetensors.index.json").write_text(text)


def _shard_and_lose_one(directory: Path) -> None:
    shard(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()


def _drop(name: str) -> Damage:
    return lambda directory: rewrite(directory, lambda weights: weights.pop(name))


def _add(name: str) -> Damage:
    return lambda directory: rewrite(directory, lambda w: w.update({name: mx.zeros((2,))}))


def _reshape(name: str) -> Damage:
    return lambda directory: rewrite(directory, lambda w: w.update({name: mx.zeros((3, 5))}))


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


NORM, Q = "norm.weight", "layers.1.self_attn.q_proj.weight"
DAMAGES: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "a short file": (_truncate, ("model.safetensors", "damaged")),
    "an empty file": (
        lambda directory: (directory / "model.safetensors").write_bytes(b""),
        ("model.safetensors", "damaged"),
    ),
    "a header that is no JSON": (_flip(8), ("model.safetensors", "damaged")),
    "a header with other bytes": (_flip(40), ("model.safetensors", "damaged")),
    "a header length beyond the file": (_flip(5), ("model.safetensors", "damaged")),
    "a missing shard": (_shard_and_lose_one, ("lacks 1", "model-00002-of-00002.safetensors")),
    "an index that is no JSON": (_index("{"), ("index.json",)),
    "an index of a wrong shape": (_index('{"weight_map": ["a"]}'), ("index.json",)),
    "an index that names nothing": (_index('{"weight_map": {}}'), ("index.json",)),
    "an index that names numbers": (_index('{"weight_map": {"a": 1}}'), ("lacks 1",)),
    "no weights": (
        lambda directory: (directory / "model.safetensors").unlink(),
        ("no model*.safetensors",),
    ),
    "no config": (lambda directory: (directory / "config.json").unlink(), ("no config.json",)),
    "nothing": (_empty, ("no config.json",)),
    "a config that is no JSON": (_config('{"model_type": '), ("config.json",)),
    "a config that is no text": (_config(b"\xff\xfe\x00"), ("config.json",)),
    "a config that is a list": (_config("[]"), ("config.json", "object")),
    "a config that is too long": (
        _config('{"x": "' + "a" * (32 << 20) + '"}'),
        ("config.json has 33554441 bytes", "at most 33554432"),
    ),
    "a config without end": (_config("[" * 100_000), ("config.json",)),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("role", ["target", "drafter"])
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, role: str, name: str) -> None:
    damage, named = DAMAGES[name]
    target, drafter = write_target(tmp_path / "target"), write_drafter(tmp_path / "drafter")
    loaded = load_target(target)
    damage(target if role == "target" else drafter)
    with pytest.raises(AdapterError) as refused:
        load_target(target) if role == "target" else load_drafter(drafter, loaded)
    one_line(refused.value, role, *named)


TENSORS: dict[str, tuple[str, Damage, tuple[str, ...]]] = {
    "target lacks one": ("target", _drop(f"model.{Q}"), (Q,)),
    "target has one too many": ("target", _add("model.layers.9.x.weight"), ("layers.9.x",)),
    "target's is misshapen": ("target", _reshape(f"model.{NORM}"), (NORM, "3")),
    "drafter lacks one": ("drafter", _drop(Q), ("lacks 1", Q)),
    "drafter has one too many": (
        "drafter",
        _add("layers.0.bias"),
        ("1 unexpected", "layers.0.bias"),
    ),
    "drafter's is misshapen": (
        "drafter",
        _reshape("fc.weight"),
        ("fc.weight", "[3, 5]", "[64, 192]"),
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_match_the_config_are_named(tmp_path: Path, name: str) -> None:
    role, damage, named = TENSORS[name]
    target, drafter = write_target(tmp_path / "target"), write_drafter(tmp_path / "drafter")
    loaded = load_target(target)
    damage(target if role == "target" else drafter)
    with pytest.raises(AdapterError) as refused:
        load_target(target) if role == "target" else load_drafter(drafter, loaded)
    one_line(refused.value, *named)


TARGET_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "gpt_unknown"}, "'gpt_unknown'"),
    ({"model_type": None}, "'None'"),
    ({"model_type": ["qwen3"]}, "qwen3"),
    ({"hidden_size": None}, "config"),
    ({"hidden_size": "64"}, "config"),
    ({"hidden_size": -64}, "config"),
    ({"num_hidden_layers": 3}, "layers.3"),
    ({"num_hidden_layers": "4"}, "config"),
    ({"num_attention_heads": 0}, "config"),
    ({"num_key_value_heads": None}, "config"),
    ({"head_dim": 7}, "config"),
    ({"rope_theta": None}, "rope_theta"),
    ({"rope_scaling": {"rope_type": "spiral"}}, "spiral"),
    ({"rope_scaling": 7}, "config"),
    ({"quantization": {"bits": 4}}, "group_size"),
    ({"quantization": 4}, "config"),
    ({"model_file": "evil.py"}, "evil.py"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "config"),
]


@pytest.mark.parametrize(
    ("changes", "named"), TARGET_CONFIGS, ids=[str(c) for c, _ in TARGET_CONFIGS]
)
def test_a_target_config_that_fits_nothing_is_one_line(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    directory = write_target(tmp_path)
    reconfigure(directory, **changes)
    with pytest.raises(AdapterError) as refused:
        load_target(directory)
    one_line(refused.value, named)


INNER = DRAFTER["dflash_config"]
MISFITS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"hidden_size": 32}, ("hidden_size is 32", "hidden_size is 64")),
    ({"num_target_layers": 6}, ("num_target_layers is 6", "num_hidden_layers is 4")),
    ({"vocab_size": 128}, ("vocab_size is 128", "vocab_size is 96")),
    ({"dflash_config": INNER | {"mask_token_id": 96}}, ("mask_token_id is 96", "vocab_size is 96")),
    ({"dflash_config": INNER | {"target_layer_ids": [0, 4]}}, ("[4]", "4 layers")),
    ({"dflash_config": INNER | {"target_layer_ids": [0, 1]}}, ("[64, 192]", "[64, 128]")),
    ({"num_hidden_layers": 3, "layer_types": None}, ("lacks 11", "layers.2")),
    ({"intermediate_size": 48}, ("96", "48")),
    ({"head_dim": 2**31 - 1}, ("drafter config", "outside the supported range")),
    ({"architectures": ["DFlash9DraftModel"]}, ("'DFlash9DraftModel'", "DFlashDraftModel")),
    ({"architectures": ["DFlash2DraftModel"]}, ("conv_kernel_size is missing",)),
    ({"architectures": []}, ("architecture",)),
    ({"architectures": [["x"]]}, ("architecture",)),
]


@pytest.mark.parametrize(("changes", "named"), MISFITS, ids=[str(c) for c, _ in MISFITS])
def test_a_drafter_for_another_target_is_refused_naming_both_values(
    tmp_path: Path, changes: dict[str, Any], named: tuple[str, ...]
) -> None:
    target = load_target(write_target(tmp_path / "target"))
    drafter = write_drafter(tmp_path / "drafter")
    reconfigure(drafter, **changes)
    with pytest.raises(AdapterError) as refused:
        load_drafter(drafter, target)
    one_line(refused.value, *named)


def test_names_become_paths_or_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No local path ever asks the network; a hub id without one fails at once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve("owner/model") == Path("owner/model")
    nowhere = ["./missing", "/missing/x", "~/missing-checkpoint", "missing", "a/b/c", "file"]
    hub = ["owner/nothing-like-this", "owner/-bad-name-", "owner/na me", "~nobody-here/model"]
    for name in [*nowhere, *hub]:
        with pytest.raises(AdapterError) as refused:
            resolve(name)
        one_line(refused.value, name)
