"""Drafters of other trainers in z-lab's names and keys: the one place that knows theirs.

TorchSpec, SpecForge, speculators, DeepSpec, names made for llama.cpp, prefixes of wrappers. Reads
and writes no files.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.config_values import first, nested, section
from dflash_serve.adapters.dflash_config import DFLASH, DFLASH2, DSPARK, default_layer_ids

Z_LAB, TORCHSPEC, SPECFORGE, SPECULATORS = "z-lab", "torchspec", "specforge", "speculators"

_PREFIXES = ("module.", "draft_model.", "model.")
_RENAMED = {
    "context_proj.": "fc.",  # TorchSpec
    "context_norm.": "hidden_norm.",
    "final_norm.": "norm.",
    "encoder.fc.": "fc.",  # made for llama.cpp's names
    "encoder.output_norm_enc.": "hidden_norm.",
    "output_norm.": "norm.",
    "token_embd.": "embed_tokens.",
    "output.weight": "lm_head.weight",
    # a torch module stores an embedding so; the published files have no ".weight"
    "candidate_selector.predecessor_codebook.weight": "candidate_selector.predecessor_codebook",
    "candidate_selector.successor_codebook.weight": "candidate_selector.successor_codebook",
    "markov_w1": "markov_head.markov_w1",
    "markov_w2": "markov_head.markov_w2",
}
_OF_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's parts of ``blk.N``."""
_BARE = re.compile(r"markov_head\.markov_w[12]")
"""Some files store these matrices without ".weight"."""
TABLES = ("embed_tokens.weight", "lm_head.weight", "d2t", "t2d")
"""What a drafter may store beside its network: `drafter_tables` tells what of it is its own."""
_DROPPED = ("rotary_emb.", "verifier_norm.", "verifier_lm_head.")
"""Computed from the config, or frozen copies of the target's."""

_TORCHSPEC_KEYS = ("target_hidden_size", "target_num_hidden_layers")
_SPECULATORS_KEYS = (
    "aux_hidden_state_layer_ids",
    "speculators_config",
    "speculators_model_type",
    "speculators_version",
    "transformer_layer_config",
)
_ARCHITECTURES = {"Qwen3DSparkModel": DSPARK}
"""DeepSpec's names of what z-lab's layout calls otherwise."""


class Shaped(Protocol):
    """A tensor, or what a file's header says of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


T = TypeVar("T", bound=Shaped)


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller knows better than the source's config. None: as the source says."""

    block_size: int | None = None
    runtime_block_size: int | None = None
    target_layer_ids: tuple[int, ...] | None = None
    mask_token_id: int | None = None


def detect(config: dict[str, Any], names: Iterable[str]) -> str:
    """Which trainer wrote it. SpecForge and z-lab share names and keys but for ``loss_type``."""
    if any(config.get(key) is not None for key in _SPECULATORS_KEYS):
        return SPECULATORS
    if config.get("model_type") == "dflash" or any("context_proj." in name for name in names):
        return TORCHSPEC
    return SPECFORGE if "loss_type" in nested(config) else Z_LAB


def published_names(tensors: Mapping[str, T]) -> tuple[dict[str, T], list[str]]:
    """Tensors under their published names, and the source's names of what was left out.

    Raises:
        AdapterError: two tensors would get the same name.
    """
    origin: dict[str, str] = {}
    dropped = []
    for name in sorted(tensors):
        published = published_name(name)
        if published.startswith(_DROPPED):
            dropped.append(name)
        elif published in origin:
            raise AdapterError(f"{origin[published]} and {name} are both {published}")
        else:
            origin[published] = name
    return {published: tensors[name] for published, name in origin.items()}, dropped


def published_name(name: str) -> str:
    """Without the prefixes of wrappers, and renamed."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    for old, new in _RENAMED.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(\w+)", name)
    if block is not None and block[2] in _OF_BLOCK:
        return f"layers.{block[1]}.{_OF_BLOCK[block[2]]}.{block[3]}"
    return f"{name}.weight" if _BARE.fullmatch(name) else name


def published_config(
    kind: str,
    config: dict[str, Any],
    tensors: Mapping[str, Shaped],
    target: dict[str, Any],
    given: Given,
) -> dict[str, Any]:
    """The source's config in published keys, completed from its tensors and the target's config.

    ``tensors`` have published names already. Of ``target``, depth and positions are read.

    Raises:
        AdapterError: the config contradicts itself or is known to be wrong; what to give instead.
    """
    depth = target.get("num_hidden_layers")
    if kind == TORCHSPEC:
        config = _from_torchspec(config, depth, given)
    elif kind == SPECULATORS:
        config = _from_speculators(config)
    known: dict[str, Any] = {"num_target_layers": depth}
    known["max_position_embeddings"] = target.get("max_position_embeddings")
    known["architectures"] = [_architecture(tensors)]
    norm = tensors.get("layers.0.self_attn.q_norm.weight")
    known["head_dim"] = None if norm is None else norm.shape[0]
    missing = {key: value for key, value in known.items() if config.get(key) is None}
    completed = {**config, **{key: value for key, value in missing.items() if value is not None}}
    return _with_given(_named(completed), given)


def _architecture(tensors: Mapping[str, Shaped]) -> str:
    """By what only one of them stores."""
    if any(name.startswith("candidate_selector.") for name in tensors):
        return DFLASH2
    return DSPARK if "markov_head.markov_w1.weight" in tensors else DFLASH


def _named(config: dict[str, Any]) -> dict[str, Any]:
    names = config["architectures"]
    if not isinstance(names, list):
        return config
    return config | {"architectures": [_ARCHITECTURES.get(str(name), name) for name in names]}


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
        "architectures": [DFLASH],
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
            raise AdapterError(
                "drafter config: target_layer_ids is missing: give dflash-train convert "
                "--target-layers"
            )
        return list(default_layer_ids(layers, taps))
    if isinstance(ids, list) and layers - 1 in ids:
        usual = ",".join(map(str, default_layer_ids(layers, len(ids))))
        raise AdapterError(
            f"drafter config: target_layer_ids is {ids}, TorchSpec's old default, whose last layer "
            "its capture never reached: give dflash-train convert those it was trained on with "
            f"--target-layers (z-lab's are {usual})"
        )
    return ids


def _from_speculators(config: dict[str, Any]) -> dict[str, Any]:
    """speculators nests the network's sizes, and counts its tapped layers from the embedding."""
    layers = section("transformer_layer_config", config)
    inner = dict(nested(config))
    ids = config.get("aux_hidden_state_layer_ids")
    if ids is not None:
        inner["target_layer_ids"] = _after_embedding(ids, inner.get("target_layer_ids"))
    own = {key: value for key, value in config.items() if key not in _SPECULATORS_KEYS}
    own["architectures"] = [DSPARK if first("markov_rank", inner, config) else DFLASH]
    return {**layers, **own, "model_type": "qwen3", "dflash_config": inner}


def _after_embedding(ids: Any, other: Any) -> list[int]:
    """Ids that count the embedding as 0 -> ids of layers."""
    if not isinstance(ids, list) or any(type(i) is not int or i < 1 for i in ids):
        raise AdapterError(
            f"drafter config: aux_hidden_state_layer_ids is {ids!r}, but must list integers from 1 "
            "(0 is the embedding, which DFlash does not tap)"
        )
    shifted = [i - 1 for i in ids]
    if other is not None and other != shifted:
        raise AdapterError(
            f"drafter config: aux_hidden_state_layer_ids is {ids}, which are layers {shifted}, but "
            f"target_layer_ids is {other}"
        )
    return shifted
