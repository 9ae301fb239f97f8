"""mlx-lm's names and layouts of weights -> those of the published checkpoints of a family."""

from typing import Any

import mlx.core as mx

Weights = dict[str, mx.array]


def as_published(config: dict[str, Any], weights: Weights) -> Weights:
    """The weights as a checkpoint of the family has them on the hub."""
    kind = config["model_type"]
    if kind == "qwen3_moe":
        return _expert_by_expert(weights, "mlp")
    if kind in ("lfm2", "lfm2_moe"):
        return _as_lfm2(weights)
    if kind == "gpt_oss":
        return _as_gpt_oss(weights)
    return weights


def _expert_by_expert(weights: Weights, block: str) -> Weights:
    """A tensor for each expert."""
    apart: Weights = {}
    for name, value in weights.items():
        layer, found, rest = name.partition(f".{block}.switch_mlp.")
        experts = {f"{layer}.{block}.experts.{e}.{rest}": one for e, one in enumerate(value)}
        apart |= experts if found else {name: value}
    return apart


def _as_lfm2(weights: Weights) -> Weights:
    """Convolutions as torch has them, projections by number."""
    numbers = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    published: Weights = {}
    for name, value in _expert_by_expert(weights, "feed_forward").items():
        stem, _, last = name.removesuffix(".weight").rpartition(".")
        stored = f"{stem}.{numbers[last]}.weight" if last in numbers else name
        published[stored] = value.moveaxis(2, 1) if last == "conv" else value
    return published


def _as_gpt_oss(weights: Weights) -> Weights:
    """Experts in mxfp4, gate and up projection row by row in turn."""
    published = {name: value for name, value in weights.items() if ".experts." not in name}
    for name in weights:
        block, found, kind = name.partition(".experts.")
        if found and kind in ("gate_proj.weight", "down_proj.weight"):
            pair = ("gate_proj", "up_proj") if kind.startswith("gate") else ("down_proj",)
            tensors = [_mxfp4(weights[f"{block}.experts.{one}.weight"]) for one in pair]
            biases = [weights[f"{block}.experts.{one}.bias"] for one in pair]
            stored = f"{block}.experts.{'gate_up_proj' if len(pair) == 2 else 'down_proj'}"
            for part, rows in zip(("blocks", "scales"), zip(*tensors, strict=True), strict=True):
                published[f"{stored}_{part}"] = _in_turn(rows)
            published[f"{stored}_bias"] = _in_turn(biases)
    return published


def _mxfp4(weight: mx.array) -> tuple[mx.array, mx.array]:
    """[E, out, in] -> blocks [E, out, in / 32, 16] and scales [E, out, in / 32], both uint8."""
    packed, scales = mx.quantize(weight, group_size=32, bits=4, mode="mxfp4")
    return packed.view(mx.uint8).reshape(*scales.shape, 16), scales


def _in_turn(rows: Any) -> mx.array:
    """Arrays [E, n, ...] -> [E, n * len(rows), ...]."""
    together = mx.stack(list(rows), axis=2)
    return together.flatten(1, 2)
