"""A drafter's directory, of whichever trainer, as a config and tensors in z-lab's layout.

Reads config.json and the headers of the shards; of the tensors only those that must be compared
with the target's.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dflash_serve.adapters import registry
from dflash_serve.adapters.base import AdapterError, TargetAdapter
from dflash_serve.adapters.checkpoint import read_config
from dflash_serve.adapters.config_values import nested
from dflash_serve.adapters.dflash_config import DFlashConfig, architecture, parse_dflash_config
from dflash_serve.adapters.drafter_tables import check_whole, own_tables, target_ids
from dflash_serve.adapters.foreign import (
    TABLES,
    Given,
    detect,
    published_config,
    published_name,
    published_names,
)
from dflash_serve.adapters.shard_header import read_header
from dflash_serve.adapters.target_config import check_quantization
from dflash_serve.adapters.weights import Weights, open_weights

_log = logging.getLogger("dflash_serve")
MASK_EMBEDDING = "mask_embedding.pt"
"""A learned vector in place of the mask token's embedding, which no network here takes."""


@dataclass(frozen=True, slots=True)
class PublishedDrafter:
    """``config`` and ``tensors`` in z-lab's layout, which knows no tables: own ones are beside it.

    ``left_out``: the source's names of what the target has, too.
    """

    config: dict[str, Any]
    tensors: dict[str, mx.array]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredDrafter:
    """``config`` and ``tensors`` in z-lab's layout; ``weights`` knows the tensors' files."""

    config: dict[str, Any]
    tensors: dict[str, mx.array]
    weights: Weights


def open_drafter(directory: Path, target: TargetAdapter) -> StoredDrafter:
    """A drafter for ``target``, whose network's tensors are not read yet.

    Raises:
        AdapterError: the checkpoint is damaged, contradicts itself, or asks for what is not there.
    """
    what = f"drafter {directory}"
    raw = read_drafter_object(directory)
    weights = open_weights(directory)
    kind = detect(raw, weights.tensors)
    found = published(kind, raw, weights.tensors, target, Given(), what)
    if found.left_out:
        _log.info("%s: left out, the target's own: %s", what, ", ".join(found.left_out))
    return StoredDrafter(found.config, found.tensors, weights)


def published(
    kind: str,
    raw: dict[str, Any],
    stored: Mapping[str, mx.array],
    target: TargetAdapter,
    given: Given,
    what: str,
) -> PublishedDrafter:
    """A drafter as ``kind`` of trainer stores it, in z-lab's layout.

    The target's sizes are read, and its tables if the drafter has some to compare. Tables are not
    looked at where vocabulary or width differ: `loading.check_pair` refuses such a pair.

    Raises:
        AdapterError: config and tensors contradict each other, or ask for what is not there.
    """
    tensors, dropped = published_names(stored)
    facts = {"num_hidden_layers": target.num_layers, "max_position_embeddings": target.max_context}
    config = published_config(kind, raw, tensors, facts, given)
    drafter_class(config)
    _check_quantization(config, what)
    tables = {name: tensors.pop(name) for name in TABLES if name in tensors}
    parsed, own = parse_dflash_config(config), dict[str, mx.array]()
    if (parsed.vocab_size, parsed.hidden_size) == (target.vocab_size, target.hidden_size):
        config, own = _with_tables(config, parsed, tables, target, what)
    copies = tables.keys() - own.keys() - {"d2t", "t2d"}
    left_out = sorted([*dropped, *(name for name in stored if published_name(name) in copies)])
    return PublishedDrafter(config, tensors | own, tuple(left_out))


def read_published(directory: Path) -> dict[str, Any]:
    """config.json in z-lab's keys, from the small files alone.

    Where only the target knows its depth, the config says what its taps need at least.

    Raises:
        AdapterError: the config or a shard's header cannot be read, or contradicts itself.
    """
    raw = read_drafter_object(directory)
    headers = {
        name: tensor
        for path in sorted(directory.glob("model*.safetensors"))
        for name, tensor in read_header(path).items()
    }
    tensors, _ = published_names(headers)
    config = published_config(detect(raw, headers), raw, tensors, {}, Given())
    ids = nested(config).get("target_layer_ids")
    if config.get("num_target_layers") is None and "aux_hidden_state_layer_ids" in raw and ids:
        config["num_target_layers"] = max(ids) + 1
    return config


def read_drafter_object(directory: Path) -> dict[str, Any]:
    """config.json as it is.

    Raises:
        AdapterError: it cannot be read, or stands beside a file that changes the network.
    """
    refuse_mask(directory)
    return read_config(directory)


def refuse_mask(directory: Path) -> None:
    """
    Raises:
        AdapterError: a learned mask vector, which changes the network, is among the files.
    """
    if (directory / MASK_EMBEDDING).exists():
        raise AdapterError(f"drafter {directory} has a {MASK_EMBEDDING}, which is not supported")


def drafter_class(config: dict[str, Any]) -> Any:
    """The class that serves a config in z-lab's keys.

    Raises:
        AdapterError: there is none.
    """
    return registry.find(registry.DRAFTERS, architecture(config), "drafter architecture")


def quantise_as_stored(model: nn.Module, stored: StoredDrafter) -> None:
    """Quantise the matrices that the checkpoint stores so, each as its config says."""
    settings = stored.config.get("quantization")
    if settings is None:
        return

    def chosen(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if f"{path}.scales" not in stored.tensors or not hasattr(module, "to_quantized"):
            return False
        own = settings.get(path)
        return own if isinstance(own, dict) else True

    group, bits, mode = settings["group_size"], settings["bits"], settings.get("mode", "affine")
    nn.quantize(model, group, bits, mode=mode, class_predicate=chosen)


def _check_quantization(config: dict[str, Any], what: str) -> None:
    check_quantization(config, what)
    other = config.get("quantization_config")
    if other is not None and config.get("quantization") is None:
        raise AdapterError(
            f"{what}: quantization_config is {other!r:.80}, which only MLX's own `quantization` "
            "can replace"
        )


def _with_tables(
    config: dict[str, Any],
    parsed: DFlashConfig,
    tables: dict[str, mx.array],
    target: TargetAdapter,
    what: str,
) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """The config that tells which tables are the drafter's own, and those."""
    reduced = parsed.draft_vocab_size
    own_embedding, own_head = own_tables(tables, target, reduced, what)
    own = {
        name: tables[name]
        for name, kept in (("embed_tokens.weight", own_embedding), ("lm_head.weight", own_head))
        if kept and name in tables
    }
    if reduced:
        own["target_ids"] = target_ids(tables, reduced, target.vocab_size, what)
    else:
        check_whole(tables, target.vocab_size, what)
    flags = {"own_embedding": own_embedding, "own_head": own_head}
    inner = {name: value for name, value in nested(config).items() if name not in flags}
    inner |= {name: True for name, value in flags.items() if value}
    return config | {"dflash_config": inner}, own
