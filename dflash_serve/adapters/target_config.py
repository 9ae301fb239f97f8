"""What every target's config.json must say in the right type, and a quantisation that MLX runs.

Knows no family: what only some of them have is for their own arguments to check.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from dflash_serve.adapters.base import AdapterError

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_OPTIONAL_SIZES = ("head_dim", "max_position_embeddings", "sliding_window")
_FACTORS = ("rms_norm_eps", "rope_theta")
_FLAGS = ("tie_word_embeddings", "attention_bias")


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The text model of a config.json, unquantised: all keys at one level."""
    known = {key: value for key, value in config.items() if not key.startswith("quantization")}
    inner = known.get("text_config")
    if inner is None:
        return known
    outer = {key: known[key] for key in ("model_type", "tie_word_embeddings") if key in known}
    return outer | inner | {"model_type": known.get("model_type")}


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


def _mismatch(key: str, value: Any) -> str | None:
    """What ``key`` must be, None if ``value`` is that."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in _SIZES:
        return None if type(value) is int and value > 0 else "a positive integer"
    if value is None:
        return None
    if key in _OPTIONAL_SIZES:
        return None if type(value) is int and value > 0 else "a positive integer or null"
    if key in _FACTORS:
        return None if number and value > 0 else "a positive number"
    if key in _FLAGS:
        return None if isinstance(value, bool) else "true or false"
    return None


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
