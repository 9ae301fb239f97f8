"""config.json of a drafter of the DFlash family in z-lab's layout, read strictly.

Source: the published checkpoints z-lab/*-DFlash-b16 and the keys other trainers write, each in all
of its known places. `adapters.foreign` brings other layouts to this one.
"""

from dataclasses import dataclass
from typing import Any

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.config_values import first, flag, integer, nested, number, section

_REFUSED = (
    "attention_sink_bias",
    "attention_value_scale",
    "aux_hidden_state_layer_ids",  # speculators' layout: its ids count from the embedding
)
DFLASH, DFLASH2, DSPARK = "DFlashDraftModel", "DFlash2DraftModel", "DSparkDraftModel"
_MOST_LAYERS, _LONGEST_BLOCK = 256, 1024
_PROJECTORS = ("dflash", "dspark")
_MODES = ("dflash", "vp_drafter")
_PREFIX_BASE = 0.9
"""SpecForge's, where a VP-drafter's config has none."""
_SHIFTS = ("sample_from_anchor", "dspark_bonus_anchor", "draft_shift")
"""Names of the same thing: slot k predicts the token k + 1 places behind the anchor."""
_DFLASH2_KEYS = ("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k")
_ONLY = {
    "markov_head_type": "vanilla",
    "attention_bias": False,
    "hidden_act": "silu",
    "rope_is_neox_style": True,
}
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_ROPE_NEEDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor",),
}
"""Rope types that take one offset per row -> the numbers each cannot do without."""


@dataclass(frozen=True, slots=True)
class DFlashConfig:
    """Everything the draft network needs; sizes in elements, ``layer_windows`` in tokens.

    layer_windows[i] is None for a full-attention layer and W for a sliding one.
    layer_causal[i] tells whether layer i is causal inside the block. block_size is the tokens of a
    block as trained, the anchor included; runtime_block_size is what its maker advises to verify
    per round, at most that. The conv and selector sizes are DFlash 2's, 0 in DFlash v1.

    shift: 1 where the anchor's slot predicts the first draft, so that a stored block size of b
    stands for a block of b + 1 tokens; else 0. markov_rank and the confidence head are DSpark's.
    draft_vocab_size: logits of a head with fewer of them than the target has tokens, else 0.
    own_embedding, own_head: stored, and not the target's.
    prefix_weight_base: above 0 in a VP-drafter, which was trained to go on from a visible prefix:
    length i was drawn with weight base ** i.
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
    runtime_block_size: int
    mask_token_id: int
    target_layer_ids: tuple[int, ...]
    num_target_layers: int
    input_embedding_scale: float = 1.0
    output_multiplier: float = 1.0
    final_logit_softcapping: float = 0.0
    conv_kernel_size: int = 0
    conv_group_size: int = 0
    selector_rank: int = 0
    selector_top_k: int = 0
    shift: int = 0
    markov_rank: int = 0
    confidence_head: bool = False
    confidence_with_markov: bool = False
    draft_vocab_size: int = 0
    own_embedding: bool = False
    own_head: bool = False
    prefix_weight_base: float = 0.0

    @property
    def logits(self) -> int:
        """How many a slot has."""
        return self.draft_vocab_size or self.vocab_size

    @property
    def num_layers(self) -> int:
        return len(self.layer_windows)

    @property
    def layer_kinds(self) -> tuple[tuple[int | None, bool], ...]:
        """(window, causal) of each layer: what its mask depends on."""
        return tuple(zip(self.layer_windows, self.layer_causal, strict=True))


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
    inner = nested(config)
    _refuse_unsupported(config, inner)
    layers = integer("num_hidden_layers", config, most=_MOST_LAYERS)
    target_layers = integer("num_target_layers", config, inner)
    rope_theta, rope_scaling = _rope(config)
    windows = _windows(config, inner, layers)
    heads, kv_heads = _heads(config)
    hidden = _hidden_size(config, inner)
    shift = _shift(config, inner)
    least = 2 - shift
    block = integer("block_size", inner, config, least=least, most=_LONGEST_BLOCK, default=16)
    block += shift
    vocab = integer("vocab_size", config)
    return DFlashConfig(
        hidden_size=hidden,
        intermediate_size=integer("intermediate_size", config),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=integer("head_dim", config, default=hidden // heads),
        rms_norm_eps=number("rms_norm_eps", config, default=1e-6),
        vocab_size=vocab,
        max_position_embeddings=integer("max_position_embeddings", config, default=40960),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        layer_windows=windows,
        layer_causal=_causality(config, inner, windows),
        block_size=block,
        runtime_block_size=_runtime_block(block, shift, inner, config),
        mask_token_id=integer("mask_token_id", inner, config, least=0),
        target_layer_ids=_layer_ids(config, inner, target_layers, layers),
        num_target_layers=target_layers,
        input_embedding_scale=number("input_embedding_scale", inner, config, default=1.0),
        output_multiplier=number("output_multiplier", inner, config, default=1.0),
        final_logit_softcapping=number("final_logit_softcapping", inner, config, default=0.0),
        shift=shift,
        own_embedding=flag("own_embedding", inner),
        own_head=flag("own_head", inner),
        draft_vocab_size=_draft_vocab(vocab, inner, config),
        prefix_weight_base=_prefix_base(inner, config),
        **_dflash2_sizes(config, inner, hidden),
        **_dspark_heads(config, inner),
    )


def architecture(config: dict[str, Any]) -> str:
    """The name under which `registry.DRAFTERS` has the drafter's class.

    DSpark's heads make a drafter one, whatever else it calls itself.
    """
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else str(names)
    heads = _dspark_heads(config, nested(config))
    return DSPARK if name == DFLASH and any(heads.values()) else name


def _hidden_size(config: dict[str, Any], inner: dict[str, Any]) -> int:
    """The drafter's width, which is also its target's: ``target_hidden_size`` may repeat it."""
    hidden = integer("hidden_size", config)
    target = integer("target_hidden_size", inner, config, default=hidden)
    if target != hidden:
        raise AdapterError(
            f"drafter config: target_hidden_size is {target}, but hidden_size is {hidden}: "
            "DFlash has one width"
        )
    return hidden


def _shift(config: dict[str, Any], inner: dict[str, Any]) -> int:
    """By any of its names; a DSpark drafter that has none of them is shifted."""
    said = {
        key: flag(key, inner, config) for key in _SHIFTS if first(key, inner, config) is not None
    }
    if len(set(said.values())) > 1:
        pairs = " and ".join(f"{key} {value}" for key, value in said.items())
        raise AdapterError(f"drafter config: {pairs} contradict each other")
    named = config.get("architectures") or [""]
    dspark = first("projector_type", inner, config) == "dspark" or named[0] == DSPARK
    return int(any(said.values()) if said else dspark)


def _draft_vocab(vocab: int, *places: dict[str, Any]) -> int:
    size = integer("draft_vocab_size", *places, default=vocab)
    if size > vocab:
        raise AdapterError(f"drafter config: draft_vocab_size is {size}, but vocab_size is {vocab}")
    return size if size < vocab else 0


def _dspark_heads(config: dict[str, Any], inner: dict[str, Any]) -> dict[str, Any]:
    """The Markov and the confidence head, with nothing of either in DFlash."""
    places = (inner, config)
    rank = integer("markov_rank", *places, least=0, default=0)
    confidence = flag("enable_confidence_head", *places)
    markov = confidence and flag("confidence_head_with_markov", *places)
    if markov and not rank:
        raise AdapterError(
            "drafter config: confidence_head_with_markov is true, but markov_rank is 0"
        )
    return {
        "markov_rank": rank,
        "confidence_head": confidence,
        "confidence_with_markov": markov,
    }


def _runtime_block(block: int, shift: int, *places: dict[str, Any]) -> int:
    """Counted as ``block_size`` is stored."""
    advised = integer("runtime_block_size", *places, default=block - shift) + shift
    if advised > block:
        raise AdapterError(
            f"drafter config: runtime_block_size is {advised - shift}, but block_size is "
            f"{block - shift}"
        )
    return advised


def _prefix_base(*places: dict[str, Any]) -> float:
    """0 but for a VP-drafter, which SpecForge may name in ``loss_type`` instead."""
    mode, loss = (first(key, *places) for key in ("training_mode", "loss_type"))
    if mode not in (None, *_MODES):
        raise AdapterError(
            f"drafter config: training_mode is {mode!r}, supported are {', '.join(_MODES)}"
        )
    if mode == "dflash" and loss == "vp_drafter":
        raise AdapterError(
            "drafter config: training_mode 'dflash' and loss_type 'vp_drafter' contradict each "
            "other"
        )
    if "vp_drafter" not in (mode, loss):
        return 0.0
    base = number("prefix_weight_base", *places, default=_PREFIX_BASE)
    if base <= 0:
        raise AdapterError(f"drafter config: prefix_weight_base is {base}, but must be above 0")
    return base


def _refuse_unsupported(config: dict[str, Any], inner: dict[str, Any]) -> None:
    for key in _REFUSED:
        value = first(key, inner, config)
        if value:
            raise AdapterError(f"drafter config: {key} is {value!r}, which is not supported")
    for key, wanted in _ONLY.items():
        value = first(key, inner, config)
        if value is not None and value != wanted:
            raise AdapterError(f"drafter config: {key} is {value!r}, but DFlash has {wanted!r}")
    projector = first("projector_type", inner, config)
    if projector not in (None, *_PROJECTORS):
        raise AdapterError(
            f"drafter config: projector_type is {projector!r}, supported are "
            f"{', '.join(_PROJECTORS)}"
        )


def _dflash2_sizes(config: dict[str, Any], inner: dict[str, Any], hidden: int) -> dict[str, Any]:
    """The four sizes that a DFlash 2 checkpoint must name and a v1 checkpoint must not."""
    if (config.get("architectures") or [""])[0] != DFLASH2:
        for key in _DFLASH2_KEYS:
            value = first(key, inner, config)
            if value:
                raise AdapterError(
                    f"drafter config: {key} is {value!r}, but only {DFLASH2} has such a part"
                )
        return {}
    sizes = {key: integer(key, inner, config) for key in _DFLASH2_KEYS}
    for key in ("markov_rank", "draft_vocab_size"):
        value = first(key, inner, config)
        if value and value != config.get("vocab_size"):
            raise AdapterError(
                f"drafter config: {key} is {value!r}, which {DFLASH2}'s selector cannot have"
            )
    if hidden % sizes["conv_group_size"]:
        raise AdapterError(
            f"drafter config: conv_group_size is {sizes['conv_group_size']}, which does not divide "
            f"hidden_size {hidden}"
        )
    return sizes


def _heads(config: dict[str, Any]) -> tuple[int, int]:
    heads = integer("num_attention_heads", config)
    kv_heads = integer("num_key_value_heads", config)
    if heads % kv_heads:
        raise AdapterError(
            f"drafter config: num_attention_heads is {heads}, not a multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    return heads, kv_heads


def _rope(config: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """rope_theta top-level or in rope_parameters (transformers 5); scaling such as yarn or None.

    A partial_rotary_factor inherited from the target is dropped: the drafter rotates all of
    head_dim.
    """
    parameters, scaling = (section(key, config) for key in ("rope_parameters", "rope_scaling"))
    theta = number("rope_theta", config, parameters)
    scaling = {
        key: value
        for key, value in (scaling or parameters).items()
        if key not in ("partial_rotary_factor", "rope_theta")
    }
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    if kind not in _ROPE_NEEDS:
        raise AdapterError(
            f"drafter config: rope_type is {kind!r}, supported are {', '.join(_ROPE_NEEDS)}"
        )
    for key in _ROPE_NEEDS[kind]:
        number(key, scaling)
    return theta, None if kind == "default" else scaling | {"rope_type": kind}


def _windows(config: dict[str, Any], inner: dict[str, Any], layers: int) -> tuple[int | None, ...]:
    types = config.get("layer_types") or ["full_attention"] * layers
    if not isinstance(types, list) or not set(map(str, types)) <= _LAYER_TYPES:
        raise AdapterError(
            f"drafter config: layer_types is {types!r}, but must list full_attention or "
            "sliding_attention"
        )
    if len(types) != layers:
        raise AdapterError(
            f"drafter config: layer_types has {len(types)} entries for {layers} layers"
        )
    if "sliding_attention" not in types:
        if inner.get("use_swa"):
            raise AdapterError(
                "drafter config: use_swa is true, but layer_types has no sliding_attention"
            )
        return (None,) * layers
    window = first("sliding_window", config) or first("swa_window_size", inner)
    window = integer("sliding_window", {"sliding_window": window})
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _causality(
    config: dict[str, Any], inner: dict[str, Any], windows: tuple[int | None, ...]
) -> tuple[bool, ...]:
    """is_causal > dflash_config.causal > causal exactly in sliding layers; causal_head: all."""
    if inner.get("causal_head"):
        return (True,) * len(windows)
    for place, key in ((config, "is_causal"), (inner, "causal"), (config, "dflash_query_causal")):
        flag = place.get(key)
        if isinstance(flag, bool):
            return (flag,) * len(windows)
        if flag is not None:
            raise AdapterError(f"drafter config: {key} is {flag!r}, but must be true or false")
    sliding_is_causal = not config.get("sliding_window_non_causal")
    return tuple(window is not None and sliding_is_causal for window in windows)


def _layer_ids(
    config: dict[str, Any], inner: dict[str, Any], target_layers: int, layers: int
) -> tuple[int, ...]:
    ids = first("target_layer_ids", inner, config)
    if ids is None:
        ids = list(default_layer_ids(target_layers, layers))
    if not isinstance(ids, list) or not ids or any(type(i) is not int for i in ids):
        raise AdapterError(f"drafter config: target_layer_ids is {ids!r}, but must list integers")
    outside = [i for i in ids if not 0 <= i < target_layers]
    if outside:
        raise AdapterError(
            f"drafter config: target_layer_ids {outside} outside the target's "
            f"{target_layers} layers"
        )
    return tuple(ids)
