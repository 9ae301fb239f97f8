"""config.json of a DFlash v1 drafter in z-lab's layout, read strictly but from every known place.

Source: the published checkpoints z-lab/*-DFlash-b16 and the keys other trainers write.
"""

from dataclasses import dataclass
from typing import Any

from dflash_serve.adapters.base import AdapterError

_REFUSED = ("attention_sink_bias", "attention_value_scale", "draft_shift", "sample_from_anchor")


@dataclass(frozen=True, slots=True)
class DFlashConfig:
    """Everything the draft network needs; sizes in elements, ``layer_windows`` in tokens.

    layer_windows[i] is None for a full-attention layer and W for a sliding one.
    layer_causal[i] tells whether layer i is causal inside the block.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    layer_windows: tuple[int | None, ...]
    layer_causal: tuple[bool, ...]
    block_size: int
    mask_token_id: int
    target_layer_ids: tuple[int, ...]
    num_target_layers: int
    input_embedding_scale: float = 1.0
    output_multiplier: float = 1.0
    final_logit_softcapping: float = 0.0

    @property
    def num_layers(self) -> int:
        return len(self.layer_windows)


def default_layer_ids(target_layers: int, draft_layers: int) -> tuple[int, ...]:
    """The published spread of tapped layers: from layer 1 to layer n - 3.

    Python's round (half to even) is part of the rule.
    """
    if draft_layers == 1:
        return (target_layers // 2,)
    span = target_layers - 3 - 1
    return tuple(round(1 + i * span / (draft_layers - 1)) for i in range(draft_layers))


def parse_dflash_config(config: dict[str, Any]) -> DFlashConfig:
    """Read z-lab's config.json.

    Raises:
        AdapterError: a key is missing, of the wrong type, or asks for something unsupported.
    """
    inner = config.get("dflash_config") or {}
    if not isinstance(inner, dict):
        raise AdapterError(f"drafter config: dflash_config is {inner!r}, but must be an object")
    _refuse_unsupported(config, inner)
    layers = _integer(config, "num_hidden_layers")
    target_layers = _first_integer("num_target_layers", config, inner)
    rope_theta, rope_scaling = _rope(config)
    windows = _windows(config, layers)
    heads = _integer(config, "num_attention_heads")
    hidden = _integer(config, "hidden_size")
    return DFlashConfig(
        hidden_size=hidden,
        intermediate_size=_integer(config, "intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=_integer(config, "num_key_value_heads"),
        head_dim=int(config.get("head_dim") or hidden // heads),
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        vocab_size=_integer(config, "vocab_size"),
        max_position_embeddings=int(config.get("max_position_embeddings", 40960)),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        layer_windows=windows,
        layer_causal=_causality(config, inner, windows),
        block_size=_block_size(config, inner),
        mask_token_id=_first_integer("mask_token_id", inner, config),
        target_layer_ids=_layer_ids(config, inner, target_layers, layers),
        num_target_layers=target_layers,
        input_embedding_scale=_scaling(inner, config, "input_embedding_scale", 1.0),
        output_multiplier=_scaling(inner, config, "output_multiplier", 1.0),
        final_logit_softcapping=_scaling(inner, config, "final_logit_softcapping", 0.0),
    )


def _refuse_unsupported(config: dict[str, Any], inner: dict[str, Any]) -> None:
    for key in _REFUSED:
        if inner.get(key):
            raise AdapterError(f"drafter config: dflash_config.{key} = {inner[key]!r} unsupported")
    projector = inner.get("projector_type", "dflash")
    if projector != "dflash":
        raise AdapterError(f"drafter config: projector_type {projector!r} is not 'dflash'")
    if config.get("attention_bias"):
        raise AdapterError("drafter config: attention_bias = true, but DFlash has no biases")
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise AdapterError(f"drafter config: hidden_act {activation!r}, but DFlash uses 'silu'")
    if config.get("rope_is_neox_style", True) is False:
        raise AdapterError("drafter config: rope_is_neox_style = false is not supported")


def _integer(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise AdapterError(f"drafter config: {key} is {value!r}, but must be a positive integer")
    return value


def _first_integer(key: str, *places: dict[str, Any]) -> int:
    for place in places:
        if place.get(key) is not None:
            value = place[key]
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise AdapterError(f"drafter config: {key} is {value!r}, but must be an integer")
            return value
    raise AdapterError(f"drafter config: {key} is missing")


def _block_size(config: dict[str, Any], inner: dict[str, Any]) -> int:
    given = [place["block_size"] for place in (inner, config) if place.get("block_size")]
    block = _integer({"block_size": given[0] if given else 16}, "block_size")
    if block < 2:
        raise AdapterError(f"drafter config: block_size is {block}, but must be at least 2")
    return block


def _scaling(inner: dict[str, Any], config: dict[str, Any], key: str, default: float) -> float:
    value = inner.get(key, config.get(key))
    return default if value is None else float(value)


def _rope(config: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """rope_theta top-level or in rope_parameters (transformers 5); scaling such as yarn or None.

    A partial_rotary_factor inherited from the target is dropped: the drafter rotates all of
    head_dim.
    """
    parameters = dict(config.get("rope_parameters") or {})
    theta = config.get("rope_theta", parameters.pop("rope_theta", None))
    if theta is None:
        raise AdapterError("drafter config: rope_theta is missing")
    scaling = dict(config.get("rope_scaling") or parameters)
    scaling.pop("partial_rotary_factor", None)
    scaling.pop("rope_theta", None)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return float(theta), None if kind == "default" else scaling


def _windows(config: dict[str, Any], layers: int) -> tuple[int | None, ...]:
    types = config.get("layer_types") or ["full_attention"] * layers
    if len(types) != layers:
        raise AdapterError(
            f"drafter config: layer_types has {len(types)} entries for {layers} layers"
        )
    unknown = set(types) - {"full_attention", "sliding_attention"}
    if unknown:
        raise AdapterError(f"drafter config: layer_types has unknown {sorted(unknown)}")
    if "sliding_attention" not in types:
        return (None,) * layers
    window = _integer(config, "sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _causality(
    config: dict[str, Any], inner: dict[str, Any], windows: tuple[int | None, ...]
) -> tuple[bool, ...]:
    """is_causal > dflash_config.causal > causal exactly in sliding layers; causal_head: all."""
    if inner.get("causal_head"):
        return (True,) * len(windows)
    for flag in (config.get("is_causal"), inner.get("causal")):
        if flag is not None:
            return (bool(flag),) * len(windows)
    return tuple(window is not None for window in windows)


def _layer_ids(
    config: dict[str, Any], inner: dict[str, Any], target_layers: int, layers: int
) -> tuple[int, ...]:
    ids = inner.get("target_layer_ids", config.get("target_layer_ids"))
    if ids is None:
        return default_layer_ids(target_layers, layers)
    if not ids or any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
        raise AdapterError(f"drafter config: target_layer_ids is {ids!r}, must be integers")
    outside = [i for i in ids if not 0 <= i < target_layers]
    if outside:
        raise AdapterError(
            f"drafter config: target_layer_ids {outside} outside the target's "
            f"{target_layers} layers"
        )
    return tuple(ids)
