"""Writes checkpoints of given shapes with random weights, one shard in memory at a time."""

import json
import shutil
from collections.abc import Iterator
from math import floor, log2
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from dflash_serve.adapters import registry
from dflash_serve.adapters.dflash import DFlashModel
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.bench.shape_configs import Shape
from dflash_serve.compose.directories import DEMO

QUANTIZATION: dict[str, Any] = {"group_size": 64, "bits": 4, "mode": "affine"}
_SHARD_BYTES = 1 << 30
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_LAYERS = 6
_TINY = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "vocab_size": 2048,
    "num_hidden_layers": _LAYERS,
}


def shrunk(shape: Shape) -> Shape:
    """The same kinds of layers, few and small, for tests of this script."""
    target = shape.target | {"vocab_size": _TINY["vocab_size"]}
    text = dict(target.get("text_config") or target) | _TINY
    if "layer_types" in text:
        text["layer_types"] = text["layer_types"][:_LAYERS]
    target = target | {"text_config": text} if "text_config" in target else text
    inner = shape.drafter["dflash_config"] | {
        "mask_token_id": _TINY["vocab_size"] - 1,
        "target_layer_ids": [0, _LAYERS - 2],
    }
    drafter = {
        **shape.drafter,
        **_TINY,
        "num_hidden_layers": 1,
        "layer_types": ["full_attention"],
        "num_target_layers": _LAYERS,
        "dflash_config": inner,
    }
    return Shape(target, drafter)


def random_target(config: dict[str, Any]) -> nn.Module:
    """The adapter's model of a target, quantised, with random weights that are not computed."""
    adapter = registry.find_target(config["model_type"])
    model_class, args_class = adapter.model_classes
    model = model_class(args_class.from_dict(config))
    nn.quantize(model, **QUANTIZATION)
    return model


def random_tensor(name: str, like: mx.array, bits: np.random.Generator) -> mx.array:
    """Values of a tensor's kind and shape that keep activations finite: matrices of unit gain."""
    if like.dtype == mx.uint32:
        return mx.array(bits.integers(0, 1 << 32, like.shape, dtype=np.uint32))
    if name.endswith(("scales", "biases")):  # 16 values around zero, for about 0.9 * inputs ** -0.5
        inputs = like.shape[-1] * QUANTIZATION["group_size"]
        step = 0.2 * inputs**-0.5
        return mx.full(like.shape, step if name.endswith("scales") else -7.5 * step, mx.bfloat16)
    if like.ndim < 2:
        return mx.ones(like.shape, mx.bfloat16)
    # sign and fraction at random, one exponent: the power of two below inputs ** -0.5
    words = bits.integers(0, 1 << 16, like.shape, dtype=np.uint16)
    words &= 0x807F
    words |= 127 + floor(log2(like.shape[-1] ** -0.5)) << 7
    return mx.array(words).view(mx.bfloat16)


def write_weights(directory: Path, model: nn.Module, seed: int) -> int:
    """Shards and their index, one shard in memory at a time; the bytes that are on disk."""
    bits = np.random.default_rng(seed)
    named: list[tuple[str, mx.array]] = tree_flatten(model.parameters())
    shards = list(_shards(named))
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        path = str(directory / file)
        mx.save_safetensors(path, {name: random_tensor(name, like, bits) for name, like in names})
        weight_map |= {name: file for name, _ in names}
        mx.clear_cache()
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _shards(named: list[tuple[str, mx.array]]) -> Iterator[list[tuple[str, mx.array]]]:
    """Tensors in their order, in groups of at most `_SHARD_BYTES` if one alone is not more."""
    group: list[tuple[str, mx.array]] = []
    size = 0
    for name, like in named:
        width = 4 if like.dtype == mx.uint32 else 2
        if group and size + width * like.size > _SHARD_BYTES:
            yield group
            group, size = [], 0
        group.append((name, like))
        size += width * like.size
    yield group


def write_pair(directory: Path, shape: Shape) -> tuple[int, int]:
    """A target and a drafter in folders of these names; their bytes on disk."""
    target, drafter = directory / "target", directory / "drafter"
    for path in (target, drafter):
        path.mkdir(parents=True)
    stored = shape.target | {"quantization": QUANTIZATION, "eos_token_id": 2}
    (target / "config.json").write_text(json.dumps(stored))
    (drafter / "config.json").write_text(json.dumps(shape.drafter))
    for name in _TOKENIZER:
        shutil.copy(DEMO / "target" / name, target)
    target_bytes = write_weights(target, random_target(shape.target), seed=0)
    model = DFlashModel(parse_dflash_config(shape.drafter))
    return target_bytes, write_weights(drafter, model, seed=1)
