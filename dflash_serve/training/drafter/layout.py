"""Drafters on disk in z-lab's Hugging Face layout: the full config.json, and files replaced whole.

Knows the published names, and those of a drafter's own tables; `adapters.foreign` knows the names
of other trainers.
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dflash_serve.adapters import registry
from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import check_names
from dflash_serve.adapters.config_values import nested
from dflash_serve.adapters.dflash_config import DFlashConfig, architecture, parse_dflash_config
from dflash_serve.atomic_files import flush

DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
CARD_MARK = "<!-- written by dflash-train; remove this line to keep your own text -->"
_NESTED = (
    "confidence_head_with_markov",
    "conv_group_size",
    "conv_kernel_size",
    "enable_confidence_head",
    "final_logit_softcapping",
    "input_embedding_scale",
    "markov_head_type",
    "markov_rank",
    "mask_token_id",
    "output_multiplier",
    "prefix_weight_base",
    "projector_type",
    "runtime_block_size",
    "sample_from_anchor",
    "selector_rank",
    "selector_top_k",
    "target_layer_ids",
    "training_mode",
)
"""Keys that z-lab's readers look for inside dflash_config; others write them at the top."""
_SAME = (
    "num_target_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
)
"""Keys that `DFlashConfig` has under the same names."""
_NOT_WRITTEN = ("auto_map", "rope_parameters", "torch_dtype")
"""The name of a Python file that is not shipped, and second names of what is written."""


def full_config(raw: dict[str, Any], runtime_block_size: int | None = None) -> dict[str, Any]:
    """config.json with every key that a reader of the layout needs, where each reader looks for it.

    ``raw`` may leave out what has a default and may use the older places of a key. Written on top:
    ``use_sliding_window``, without which transformers drops the window; ``is_causal``, whose
    default differs between readers; ``block_size`` in both of its places. Other keys are kept.
    """
    inner = {key: raw[key] for key in _NESTED if key in raw} | nested(raw)
    if runtime_block_size is not None:
        inner["runtime_block_size"] = runtime_block_size
    name = _architecture(raw)
    config = parse_dflash_config({**raw, "dflash_config": inner})
    base, mode = config.prefix_weight_base, {}
    if base:
        mode = {"training_mode": "vp_drafter", "prefix_weight_base": base}
    known = {
        "architectures": [name],
        "model_type": "qwen3",
        "block_size": config.block_size - config.shift,
        "dflash_config": inner
        | {
            "mask_token_id": config.mask_token_id,
            "target_layer_ids": list(config.target_layer_ids),
            "block_size": config.block_size - config.shift,
        }
        | mode,
        "num_hidden_layers": config.num_layers,
        **{name: getattr(config, name) for name in _SAME},
        **_attention(config),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "max_window_layers": config.num_layers,
    }
    rest = {key: value for key, value in raw.items() if key not in (*_NESTED, *_NOT_WRITTEN)}
    return {**known, **{key: value for key, value in rest.items() if key not in known}}


def _architecture(raw: dict[str, Any]) -> str:
    names = raw.get("architectures")
    if not isinstance(names, list) or not names:
        raise AdapterError(f"drafter config: architectures is {names!r}, but must list one name")
    return architecture(raw)


def _attention(config: DFlashConfig) -> dict[str, Any]:
    """Kinds of layers; is_causal is null where it differs between them: causal iff sliding."""
    windows = [window for window in config.layer_windows if window is not None]
    causal = set(config.layer_causal)
    return {
        "layer_types": [
            "full_attention" if window is None else "sliding_attention"
            for window in config.layer_windows
        ],
        "sliding_window": windows[0] if windows else None,
        "use_sliding_window": bool(windows),
        "is_causal": causal.pop() if len(causal) == 1 else None,
    }


def stored_tensors(config: dict[str, Any]) -> dict[str, mx.array]:
    """The names that a drafter of ``config`` has on disk, with arrays of their shapes.

    Of a reduced vocabulary d2t is stored, as speculators does it.
    """
    drafter_class = registry.find(registry.DRAFTERS, _architecture(config), "drafter architecture")
    try:
        model = drafter_class.model_class(parse_dflash_config(config))
    except (ArithmeticError, RuntimeError, ValueError) as error:
        raise AdapterError(f"drafter config: no network can have its sizes: {error}") from error
    tensors: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    if "target_ids" in tensors:
        tensors["d2t"] = tensors.pop("target_ids")
    return tensors


def write_drafter(
    directory: Path,
    config: dict[str, Any],
    weights: dict[str, mx.array],
    dtype: str,
    card: str | None = None,
) -> None:
    """Write config.json, model.safetensors and, with ``card``, README.md.

    All files are complete on the disk before the first is moved into place; whatever fails before
    that leaves the directory as it was. A README.md without our mark is the user's and is kept.

    Raises:
        AdapterError: a tensor is missing, unknown, misshapen or not finite in ``dtype``; the
            directory holds another checkpoint's shards; the disk is full or refuses.
    """
    check_names(weights, stored_tensors(config), "the drafter")
    cast = {name: _cast(name, weights[name], dtype) for name in sorted(weights)}
    text = {CONFIG: json.dumps({**config, "dtype": dtype}, indent=2) + "\n"}
    if card is not None and _may_replace(directory / CARD):
        text[CARD] = card.rstrip() + f"\n\n{CARD_MARK}\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _refuse_shards(directory)
        with TemporaryDirectory(dir=directory, prefix=".part-") as scratch:
            _stage(Path(scratch), cast, text)
            for name in (WEIGHTS, *text):
                os.replace(Path(scratch) / name, directory / name)
    except (OSError, RuntimeError) as error:
        raise AdapterError(f"cannot write {directory}: {error}") from error


def _stage(scratch: Path, weights: dict[str, mx.array], text: dict[str, str]) -> None:
    mx.save_safetensors(str(scratch / WEIGHTS), weights, metadata={"format": "pt"})
    for name, content in text.items():
        (scratch / name).write_text(content, encoding="utf-8")
    flush(*(scratch / name for name in (WEIGHTS, *text)))


def _cast(name: str, value: mx.array, dtype: str) -> mx.array:
    if name == "d2t":
        return value
    cast = value.astype(DTYPES[dtype])
    if not mx.isfinite(cast).all().item():
        raise AdapterError(f"{name} has values that are not finite in {dtype}")
    return cast


def _may_replace(card: Path) -> bool:
    return not card.exists() or CARD_MARK in card.read_text(encoding="utf-8", errors="replace")


def _refuse_shards(directory: Path) -> None:
    """Shards or an index beside a new model.safetensors would be read instead of it, or with it."""
    found = [*directory.glob("model*.safetensors"), *directory.glob("model*.index.json")]
    others = sorted(path.name for path in found if path.name != WEIGHTS)
    if others:
        raise AdapterError(f"{directory} holds another checkpoint: {', '.join(others[:3])}")
