"""New drafters for a target: their config.json, and the weights that a run begins with.

Writes no files: that is `layout.write_drafter`'s.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import AdapterError, TargetAdapter
from dflash_serve.adapters.checkpoint import read_config
from dflash_serve.adapters.config_values import nested
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.dflash_config import DFLASH2, default_layer_ids
from dflash_serve.adapters.drafter_checkpoint import read_published
from dflash_serve.adapters.layered import LayeredTarget
from dflash_serve.adapters.loading import load_drafter, make_drafter
from dflash_serve.adapters.target_config import text_config

DEFAULT_PREFIX_BASE = 0.9

_NOT_TRAINED = (
    "shift",
    "markov_rank",
    "confidence_head",
    "draft_vocab_size",
    "own_embedding",
    "own_head",
)


@dataclass(frozen=True, slots=True)
class DrafterShape:
    """What is free in a drafter; everything else follows its target.

    ``target_layer_ids`` None is the published spread for as many taps as layers.
    ``intermediate_size`` None is the target's. ``sliding_window`` W makes all layers sliding;
    ``causal`` None is the default: causal exactly in sliding layers. ``selector_rank`` above 0
    makes it a DFlash 2 drafter. ``prefix_weight_base`` names a VP-drafter and how its visible
    prefixes were drawn.
    """

    mask_token_id: int
    layers: int = 5
    block_size: int = 16
    target_layer_ids: tuple[int, ...] | None = None
    intermediate_size: int | None = None
    sliding_window: int | None = None
    causal: bool | None = None
    selector_rank: int = 0
    selector_top_k: int = 16
    conv_kernel_size: int = 2
    conv_group_size: int = 16
    prefix_weight_base: float | None = None

    @property
    def architecture(self) -> str:
        return DFLASH2 if self.selector_rank else "DFlashDraftModel"


def drafter_config(target: dict[str, Any], shape: DrafterShape) -> dict[str, Any]:
    """config.json of a new drafter from its target's, without what `layout.full_config` adds.

    Raises:
        AdapterError: the block is longer than the target's context.
    """
    positions = int(target["max_position_embeddings"])
    if shape.block_size > positions:
        raise AdapterError(f"block size {shape.block_size} exceeds the target's {positions} tokens")
    depth = int(target["num_hidden_layers"])
    rope = target.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)  # some have a rotation for each type of layer
    heads = int(target["num_attention_heads"])
    kind = "full_attention" if shape.sliding_window is None else "sliding_attention"
    config: dict[str, Any] = {
        "architectures": [shape.architecture],
        "block_size": shape.block_size,
        "dflash_config": {
            "mask_token_id": shape.mask_token_id,
            "target_layer_ids": list(
                shape.target_layer_ids or default_layer_ids(depth, shape.layers)
            ),
            **_dflash_extras(shape),
        },
        "num_target_layers": depth,
        "num_hidden_layers": shape.layers,
        "hidden_size": int(target["hidden_size"]),
        "intermediate_size": int(shape.intermediate_size or target["intermediate_size"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(target["num_key_value_heads"]),
        "head_dim": int(target.get("head_dim") or int(target["hidden_size"]) // heads),
        "vocab_size": int(target["vocab_size"]),
        "max_position_embeddings": positions,
        "rms_norm_eps": float(target.get("rms_norm_eps", 1e-6)),
        "rope_theta": float(target.get("rope_theta") or rope["rope_theta"]),
        "rope_scaling": target.get("rope_scaling"),
        "layer_types": [kind] * shape.layers,
        "sliding_window": shape.sliding_window,
        "bos_token_id": target.get("bos_token_id"),
        "eos_token_id": target.get("eos_token_id"),
    }
    return config if shape.causal is None else config | {"is_causal": shape.causal}


def _dflash_extras(shape: DrafterShape) -> dict[str, Any]:
    """What only DFlash 2 and VP-drafters say of themselves in dflash_config."""
    extras: dict[str, Any] = {}
    if shape.selector_rank:
        extras |= {
            "conv_kernel_size": shape.conv_kernel_size,
            "conv_group_size": shape.conv_group_size,
            "selector_rank": shape.selector_rank,
            "selector_top_k": shape.selector_top_k,
        }
    if shape.prefix_weight_base is not None:
        extras |= {
            "training_mode": "vp_drafter",
            "prefix_weight_base": shape.prefix_weight_base,
        }
    return extras


@dataclass(frozen=True, slots=True)
class Beginning:
    """A drafter to train, its config.json, and the parts that no copy of the target was made of."""

    config: dict[str, Any]
    drafter: DFlashDrafter
    not_copied: tuple[str, ...] = ()


def begin_new(
    directory: Path, target: TargetAdapter, shape: DrafterShape, seed: int, *, copy_target: bool
) -> Beginning:
    """A new drafter for the target in ``directory``, random or begun with the target's layers."""
    config = drafter_config(text_config(read_config(directory)), shape)
    drafter = new_drafter(config, target, seed)
    if not copy_target:
        return Beginning(config, drafter)
    assert isinstance(target, LayeredTarget)
    return Beginning(config, drafter, tuple(start_from_target(drafter, target)))


def begin_from(
    directory: Path, target: TargetAdapter, *, mode: str | None, base: float | None
) -> Beginning:
    """The drafter in ``directory``, to go on from.

    ``mode`` "vp_drafter" makes it a VP-drafter, whose visible prefixes are drawn with ``base``, and
    "dflash" a plain one. None keeps what it is: then a ``base`` is for a VP-drafter only.

    Raises:
        AdapterError: it cannot be trained, or is none that ``base`` is for.
    """
    drafter = load_trainable(directory, target)
    config = read_published(directory)
    own = drafter.config.prefix_weight_base
    if mode is None and base is not None and not own:
        raise AdapterError(
            f"drafter {directory} is no VP-drafter: --prefix-weight-base {base} has no effect "
            "without --training-mode vp_drafter"
        )
    inner = {**nested(config)}
    for place in (inner, config):
        for name in ("training_mode", "loss_type", "prefix_weight_base"):
            place.pop(name, None)
    if mode == "vp_drafter" or (mode is None and own):
        inner["training_mode"] = "vp_drafter"
        inner["prefix_weight_base"] = base or own or DEFAULT_PREFIX_BASE
    return Beginning(config | {"dflash_config": inner}, drafter)


def new_drafter(config: dict[str, Any], target: TargetAdapter, seed: int) -> DFlashDrafter:
    """A drafter with random float32 weights. Seeds MLX's random state."""
    mx.random.seed(seed)
    drafter = make_drafter(config, target)
    drafter.model.set_dtype(mx.float32)
    mx.eval(drafter.model.parameters())
    return drafter


def load_trainable(directory: Path, target: TargetAdapter) -> DFlashDrafter:
    """A drafter from disk with float32 weights, to go on from."""
    drafter = load_drafter(directory, target, expand=False)
    check_trainable(drafter, directory)
    drafter.model.set_dtype(mx.float32)
    drafter.model.train()
    return drafter


def check_trainable(drafter: DFlashDrafter, directory: Path) -> None:
    """Refuse what can be served and not be trained: the objective knows DFlash v1 and 2 only."""
    config = drafter.config
    for name in _NOT_TRAINED:
        value = getattr(config, name)
        if value:
            raise AdapterError(f"drafter {directory}: {name} is {value!r}, which cannot be trained")
    for path, module in drafter.model.named_modules():
        if "scales" in module:
            raise AdapterError(
                f"drafter {directory}: {path} is stored in {module.bits} bits and cannot be trained"
            )


def start_from_target(drafter: DFlashDrafter, target: LayeredTarget) -> list[str]:
    """Begin with copies of the target's own layers instead of random ones, where shapes allow.

    Draft layer i becomes the target's layer i + 1 steps of n / (L + 1) up; the context begins near
    the residual stream that the last of these reads. Returns the names of what stays random: parts
    that the target has not, or not of that shape.
    """
    config, model = drafter.config, drafter.model
    depth = config.num_target_layers
    copied = [(i + 1) * depth // (config.num_layers + 1) for i in range(config.num_layers)]
    own: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    places = {"norm.weight": "model.norm"}
    places["hidden_norm.weight"] = f"model.layers.{copied[-1]}.input_layernorm"
    for name in own:
        layer = re.fullmatch(r"layers\.(\d+)\.(self_attn\..+|mlp\..+|\w+norm)\.weight", name)
        if layer is not None:
            places[name] = f"model.layers.{copied[int(layer[1])]}.{layer[2]}"
    found = {name: target.weight(place) for name, place in places.items()}
    usable = {
        name: value.astype(mx.float32)
        for name, value in found.items()
        if value is not None and value.shape == own[name].shape
    }
    context = _near_layer(copied[-1], drafter)
    model.load_weights([*usable.items(), ("fc.weight", context)], strict=False)
    mx.eval(model.parameters())
    return sorted(places.keys() - usable.keys())


def _near_layer(layer: int, drafter: DFlashDrafter) -> mx.array:
    """A context matrix that begins near the tap closest to what ``layer`` reads."""
    taps, hidden = drafter.config.target_layer_ids, drafter.config.hidden_size
    nearest = min(range(len(taps)), key=lambda tap: abs(taps[tap] - (layer - 1)))
    own: mx.array = drafter.model.fc.weight
    copy = mx.zeros_like(own)
    copy[:, nearest * hidden : (nearest + 1) * hidden] = mx.eye(hidden)
    return copy + 0.2 * own
