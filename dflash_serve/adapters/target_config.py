"""What every target's config.json must say in the right type, and a quantisation that MLX runs.

What only some families have is for their own arguments to check.
"""

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import mlx.core as mx

from dflash_serve.adapters import registry
from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.config_values import LARGEST

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_OPTIONAL_SIZES = (
    "head_dim",
    "max_position_embeddings",
    "num_key_value_heads",
    "sliding_window",
)
_MOST_LAYERS = 4096
"""Of a model that can be built in a moment; those that exist have some hundred at most."""
_FACTORS = ("rms_norm_eps", "rope_theta", "query_pre_attn_scalar", "final_logit_softcapping")
_FLAGS = ("tie_word_embeddings", "attention_bias")
_OUTER = ("model_type", "tie_word_embeddings", "vocab_size")
"""Keys beside ``text_config`` that are the text model's where that does not have them."""
_DEFAULTED = (
    "head_dim",
    "max_position_embeddings",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "vocab_size",
)
"""Keys that published configs leave out where the value is the family's default."""


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The text model of a config.json, unquantised: all keys at one level.

    Sizes that it leaves out are those that its family's adapter takes.
    """
    known = {key: value for key, value in config.items() if not key.startswith("quantization")}
    inner = known.get("text_config")
    text = known
    if inner is not None:
        text = {key: known[key] for key in _OUTER if key in known} | inner
    return _defaults(text) | text


def _defaults(text: dict[str, Any]) -> dict[str, Any]:
    """The family's, but for a base frequency where ``rope_parameters`` has it."""
    kind = str(text.get("model_type"))
    arguments = registry.find_target(kind).model_classes[1] if kind in registry.TARGETS else None
    if not is_dataclass(arguments):
        return {}
    wanted = [key for key in _DEFAULTED if key != "rope_theta" or not text.get("rope_parameters")]
    return {
        field.name: field.default
        for field in fields(arguments)
        if field.name in wanted and field.default not in (MISSING, None)
    }


def check_types(config: dict[str, Any], what: str) -> None:
    """Sizes, factors and flags of the config and of its text model's part, where they are given.

    Raises:
        AdapterError: naming the key, what it is and what it must be.
    """
    text = config.get("text_config")
    if text is not None and not isinstance(text, dict):
        raise AdapterError(f"{what}: text_config is {text!r:.80}, but must be an object")
    for part, prefix in ((config, ""), (text or {}, "text_config.")):
        for key, value in part.items():
            wanted = _mismatch(key, value)
            if wanted is not None:
                raise AdapterError(f"{what}: {prefix}{key} is {value!r:.80}, but must be {wanted}")
        _check_experts(part, f"{what}: {prefix}")


def _check_experts(part: dict[str, Any], where: str) -> None:
    """Refuse more experts per token than there are."""
    used = part.get("num_experts_per_tok") or 0
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        there = part.get(key)
        if isinstance(there, int) and used > there:
            raise AdapterError(f"{where}num_experts_per_tok is {used}, but {key} is {there}")


def _mismatch(key: str, value: Any) -> str | None:
    """What ``key`` must be, None if ``value`` is that."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in _SIZES:
        most = _MOST_LAYERS if key == "num_hidden_layers" else LARGEST
        return _size_mismatch(value, most, "a positive integer")
    if value is None:
        return None
    if key in _OPTIONAL_SIZES:
        return _size_mismatch(value, LARGEST, "a positive integer or null")
    if key == "num_experts_per_tok":  # 0 in the dense models of families that have experts
        return None if type(value) is int and value >= 0 else "an integer from 0 or null"
    if key in _FACTORS:
        return None if number and value > 0 else "a positive number"
    if key in _FLAGS:
        return None if isinstance(value, bool) else "true or false"
    return None


def _size_mismatch(value: Any, most: int, wanted: str) -> str | None:
    if type(value) is not int or value < 1:
        return wanted
    return None if value <= most else f"at most {most}"


def check_quantization(config: dict[str, Any], what: str) -> None:
    """Try each quantisation that the config names, on a small product, on this back-end.

    Raises:
        AdapterError: naming mode, bits and group size, and why MLX cannot run them.
    """
    quantization = config.get("quantization")
    if quantization is None:
        return
    if not isinstance(quantization, dict):
        raise AdapterError(f"{what}: quantization is {quantization!r:.80}, but must be an object")
    tried = set()
    for place, settings in _entries(quantization):
        for key in ("group_size", "bits"):
            if type(settings.get(key)) is not int:
                raise AdapterError(
                    f"{what}: {place}.{key} is {settings.get(key)!r:.80}, but must be an integer"
                )
        kind = (str(settings.get("mode", "affine")), settings["bits"], settings["group_size"])
        reason = None if kind in tried else _refusal(*kind)
        tried.add(kind)
        if reason is not None:
            mode, bits, group = kind
            raise AdapterError(
                f"{what}: {place} is mode {mode!r}, bits {bits}, group_size {group}, "
                f"which MLX cannot run here: {reason}"
            )


def _entries(quantization: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The quantisation of most tensors, then those of single modules, each with its place."""
    yield "quantization", quantization
    for name, value in quantization.items():
        if isinstance(value, dict):
            yield f"quantization.{name}", value


def _refusal(mode: str, bits: int, group_size: int) -> str | None:
    """Why MLX cannot quantise and multiply like this, None if it can."""
    settings: dict[str, Any] = {"mode": mode, "bits": bits, "group_size": group_size}
    try:
        weight, scales, *others = mx.quantize(mx.ones((32, 512)), **settings)
        biases = others[0] if others else None
        mx.eval(mx.quantized_matmul(mx.ones((1, 512)), weight, scales, biases, True, **settings))
    except (RuntimeError, TypeError, ValueError) as error:
        return " ".join(str(error).split())[:200]
    return None
