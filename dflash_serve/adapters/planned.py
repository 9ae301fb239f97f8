"""What a target's weights will take in memory, from its config.json alone: no tensor is read.

Knows the dtypes and quantisations that `loading` makes; not what caches and activations take.
"""

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cpu_weights import CpuWeights, choose
from dflash_serve.adapters.loading import make_model, on_cpu
from dflash_serve.adapters.target_config import check_quantization, check_types, text_config
from dflash_serve.adapters.verify_linear import has_own_product
from dflash_serve.adapters.weights import sizes_of

_DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_MXFP4 = {"group_size": 32, "bits": 4, "mode": "mxfp4"}


@dataclass(frozen=True, slots=True)
class PlannedWeights:
    """A target's weights: bytes as ``stored`` and as ``held`` in memory here, and their dtype.

    ``dense`` weights are read for every token; of ``experts`` (weights of all of them) each token
    reads ``expert_share``. Embeddings that are only looked up are not counted as read.
    """

    stored: int
    held: int
    dtype: str
    dense: int
    experts: int
    expert_share: float
    quantization: dict[str, Any] | None

    def read(self, rows: int) -> float:
        """Weights that a forward of ``rows`` tokens reads, if each draws its experts by itself."""
        return self.dense + self.experts * (1.0 - (1.0 - self.expert_share) ** rows)


def planned_weights(config: dict[str, Any], what: str) -> PlannedWeights:
    """What loading a target of this config.json will hold, on this back-end, beside what is free.

    Raises:
        AdapterError: no target can be made of the config, or its quantisation is not known here.
    """
    check_types(config, what)
    check_quantization(config, what)
    text, dtype = text_config(config), _dtype(config, what)
    _, model = make_model(config)
    plain: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    model.set_dtype(_DTYPES[dtype])
    settings = _quantization(config, what)
    if settings is not None:
        _quantise(model, settings, config)
    sizes = sizes_of(
        model, mx.float32 if on_cpu() else None, lambda part: not has_own_product(part)
    )
    widened = choose(CpuWeights.AUTO, sizes, what)
    count = next((int(text[key]) for key in _EXPERTS if text.get(key)), 0)
    experts = sum(v.size for v in plain.values() if v.ndim == 3 and count and v.shape[0] == count)
    tied = not any(name.endswith("lm_head.weight") for name in plain)
    embedding = int(text["vocab_size"]) * int(text["hidden_size"])
    every = sum(value.size for value in plain.values())
    return PlannedWeights(
        stored=sizes.stored,
        held=sizes.stored + sizes.half * widened.half + sizes.quantised * widened.quantised,
        dtype="float32" if on_cpu() and widened.half else dtype,
        dense=every - experts - (0 if tied else embedding),
        experts=experts,
        expert_share=int(text.get("num_experts_per_tok") or 0) / count if count else 0.0,
        quantization=settings,
    )


def _dtype(config: dict[str, Any], what: str) -> str:
    """As stored; bfloat16, as nearly all are, where the config does not say."""
    inner = config.get("text_config") or {}
    places = [part.get(key) for part in (config, inner) for key in ("dtype", "torch_dtype")]
    named = next((str(value) for value in places if value), "bfloat16")
    if named not in _DTYPES:
        raise AdapterError(f"{what}: dtype is {named!r}, but must be one of {', '.join(_DTYPES)}")
    return named


def _quantization(config: dict[str, Any], what: str) -> dict[str, Any] | None:
    """MLX's settings; those of OpenAI's checkpoints mean MLX's mxfp4."""
    if config.get("quantization"):
        return dict(config["quantization"])
    foreign = config.get("quantization_config")
    if not foreign:
        return None
    if foreign.get("quant_method") == "mxfp4":
        return dict(_MXFP4)
    if "group_size" in foreign and "bits" in foreign and "quant_method" not in foreign:
        return dict(foreign)
    raise AdapterError(
        f"{what}: quantization_config.quant_method is {foreign.get('quant_method')!r}, whose bytes "
        "cannot be told from the config: plan with the target that it was made from"
    )


def _quantise(model: nn.Module, settings: dict[str, Any], config: dict[str, Any]) -> None:
    """Quantise, without computing, what the config does not except."""
    skipped = (config.get("quantization_config") or {}).get("modules_to_not_convert") or []
    group = int(settings["group_size"])

    def choice(path: str, module: nn.Module) -> Any:
        if path in settings:
            return settings[path]
        usable = hasattr(module, "to_quantized") and module.weight.shape[-1] % group == 0
        return usable and not any(fnmatch(path, f"{pattern}*") for pattern in skipped)

    nn.quantize(
        model,
        group_size=group,
        bits=int(settings["bits"]),
        mode=settings.get("mode", "affine"),
        class_predicate=choice,
    )
