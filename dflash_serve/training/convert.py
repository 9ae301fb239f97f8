"""Drafters of other trainers in z-lab's names: TorchSpec, SpecForge, and prefixed or aliased ones.

Names and configs only: reads and writes no files.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.dflash_config import DFLASH2, default_layer_ids
from dflash_serve.training.layout import nested

Z_LAB, TORCHSPEC, SPECFORGE = "z-lab", "torchspec", "specforge"
KINDS = (Z_LAB, TORCHSPEC, SPECFORGE)
_V1 = "DFlashDraftModel"

_PREFIXES = ("module.", "draft_model.", "model.")
_RENAMED = {
    "context_proj.": "fc.",  # TorchSpec
    "context_norm.": "hidden_norm.",
    "final_norm.": "norm.",
    "encoder.fc.": "fc.",  # made for llama.cpp's names
    "encoder.output_norm_enc.": "hidden_norm.",
    # a torch module stores an embedding so; the published files have no ".weight"
    "candidate_selector.predecessor_codebook.weight": "candidate_selector.predecessor_codebook",
    "candidate_selector.successor_codebook.weight": "candidate_selector.successor_codebook",
}
_DROPPED = ("embed_tokens.", "lm_head.", "d2t", "t2d", "rotary_emb.")
"""The target's own, frozen, or computed from the config."""

_TORCHSPEC_KEYS = ("target_hidden_size", "target_num_hidden_layers")


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller knows better than the source's config. None: as the source says."""

    block_size: int | None = None
    runtime_block_size: int | None = None
    target_layer_ids: tuple[int, ...] | None = None
    mask_token_id: int | None = None


def detect(config: dict[str, Any], names: Iterable[str]) -> str:
    """Which trainer wrote it. SpecForge and z-lab share names and keys but for how VP is said."""
    if config.get("model_type") == "dflash" or any("context_proj." in name for name in names):
        return TORCHSPEC
    return SPECFORGE if "loss_type" in nested(config) else Z_LAB


def published_names(weights: dict[str, mx.array]) -> tuple[dict[str, mx.array], list[str]]:
    """Tensors under their published names, and the source's names of what was left out.

    Raises:
        AdapterError: two tensors would get the same name.
    """
    origin: dict[str, str] = {}
    dropped = []
    for name in sorted(weights):
        published = _published(name)
        if published.startswith(_DROPPED):
            dropped.append(name)
        elif published in origin:
            raise AdapterError(f"{origin[published]} and {name} are both {published}")
        else:
            origin[published] = name
    return {published: weights[name] for published, name in origin.items()}, dropped


def _published(name: str) -> str:
    """Without the prefixes of wrappers, and renamed."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def published_config(
    kind: str,
    config: dict[str, Any],
    weights: dict[str, mx.array],
    target: dict[str, Any],
    given: Given,
) -> dict[str, Any]:
    """The source's config in published keys, completed from its tensors and the target's config.

    ``weights`` have published names already.

    Raises:
        AdapterError: the config contradicts itself or is known to be wrong; what to give instead.
    """
    depth = target.get("num_hidden_layers")
    if kind == TORCHSPEC:
        config = _from_torchspec(config, depth, given)
    elif kind == SPECFORGE:
        config = _from_specforge(config)
    known: dict[str, Any] = {"num_target_layers": depth}
    known["max_position_embeddings"] = target.get("max_position_embeddings")
    known["architectures"] = [DFLASH2 if _has_selector(weights) else _V1]
    norm = weights.get("layers.0.self_attn.q_norm.weight")
    known["head_dim"] = None if norm is None else norm.shape[0]
    missing = {key: value for key, value in known.items() if config.get(key) is None}
    completed = {**config, **{key: value for key, value in missing.items() if value is not None}}
    return _with_given(completed, given)


def _has_selector(weights: dict[str, mx.array]) -> bool:
    return any(name.startswith("candidate_selector.") for name in weights)


def _with_given(config: dict[str, Any], given: Given) -> dict[str, Any]:
    inner = dict(nested(config))
    for key, value in (
        ("block_size", given.block_size),
        ("runtime_block_size", given.runtime_block_size),
        ("mask_token_id", given.mask_token_id),
        ("target_layer_ids", list(given.target_layer_ids or ()) or None),
    ):
        if value is not None:
            inner[key] = value
    return {**config, "dflash_config": inner}


def _from_torchspec(config: dict[str, Any], depth: Any, given: Given) -> dict[str, Any]:
    """TorchSpec counts taps in num_target_layers; the depth is in target_num_hidden_layers."""
    layers = config.get("target_num_hidden_layers", depth)
    width = config.get("target_hidden_size", config.get("hidden_size"))
    if width != config.get("hidden_size"):
        raise AdapterError(
            f"drafter config: target_hidden_size is {width!r}, but hidden_size is "
            f"{config.get('hidden_size')!r}: DFlash has one width"
        )
    ids = given.target_layer_ids or _torchspec_layer_ids(config, layers)
    renamed = {
        "model_type": "qwen3",
        "architectures": [_V1],
        "num_target_layers": layers,
        "dflash_config": nested(config) | {"target_layer_ids": ids},
    }
    return {key: value for key, value in config.items() if key not in _TORCHSPEC_KEYS} | renamed


def _torchspec_layer_ids(config: dict[str, Any], layers: Any) -> Any:
    """As listed, or the published spread that newer versions take by default."""
    taps = config.get("num_target_layers")
    ids = nested(config).get("target_layer_ids", config.get("target_layer_ids"))
    if type(layers) is not int:
        raise AdapterError(f"drafter config: target_num_hidden_layers is {layers!r}")
    if ids is None:
        if type(taps) is not int or not 0 < taps < layers:
            raise AdapterError("drafter config: target_layer_ids is missing: give --target-layers")
        return list(default_layer_ids(layers, taps))
    if isinstance(ids, list) and layers - 1 in ids:
        raise AdapterError(
            f"drafter config: target_layer_ids is {ids}, TorchSpec's old default, whose last layer "
            "its capture never reached: give those it was trained on with --target-layers "
            f"(z-lab's are {','.join(map(str, default_layer_ids(layers, len(ids))))})"
        )
    return ids


def _from_specforge(config: dict[str, Any]) -> dict[str, Any]:
    """SpecForge may say VP in loss_type, and takes 0.9 where prefix_weight_base is null."""
    inner = dict(nested(config))
    if inner.get("loss_type") == "vp_drafter":
        inner["training_mode"] = "vp_drafter"
    if inner.get("training_mode") == "vp_drafter" and inner.get("prefix_weight_base") is None:
        inner["prefix_weight_base"] = 0.9
    return {**config, "dflash_config": inner}
