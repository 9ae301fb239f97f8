"""Quantised modules of a model as the plain layers whose matrices they hold, in float32.

Knows neither files nor how much memory there is.
"""

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.mla import MultiLinear, QuantizedMultiLinear
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from dflash_serve.adapters.row_attention import as_class

_FLOAT_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.QuantizedLinear: nn.Linear,
    nn.QuantizedEmbedding: nn.Embedding,
    QuantizedSwitchLinear: SwitchLinear,
    QuantizedMultiLinear: MultiLinear,
}
_AT_ONCE = 1 << 22
"""Weights that are expanded in one go: MLX takes several times their size for a moment."""


def packed_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Quantised modules that have a plain form, by path. One with a scale of its own has none."""
    return {
        path: module
        for path, module in model.named_modules()
        if type(module) in _FLOAT_FORMS and module.get("global_scale") is None
    }


def growth(module: Any) -> int:
    """Bytes that a quantised module's matrix takes more as float32."""
    packed = sum(module[key].nbytes for key in ("weight", "scales", "biases") if _has(module, key))
    return 4 * math.prod(_shape(module)) - packed


def expanded(module: nn.Module) -> nn.Module:
    """The plain layer of a quantised one, its matrix evaluated; all else is shared."""
    plain = as_class(module, _FLOAT_FORMS[type(module)])
    for key in ("scales", "biases", "global_scale"):
        plain.pop(key, None)
    plain.weight = matrix(module)
    return plain


def matrix(module: Any) -> mx.array:
    """What a quantised module's words, scales and biases say, in float32, a few rows at a time."""
    *_, width = shape = _shape(module)
    words, scales = _rows(module.weight), _rows(module.scales)
    biases = _rows(module.biases) if _has(module, "biases") else None
    step = max(1, _AT_ONCE // width)
    out = mx.zeros((len(words), width))
    for start in range(0, len(words), step):
        part = slice(start, start + step)
        out[part] = mx.dequantize(
            words[part],
            _widened(scales[part]),
            None if biases is None else _widened(biases[part]),
            group_size=module.group_size,
            bits=module.bits,
            mode=module.mode,
            dtype=mx.float32,
        )
        mx.eval(out)
    return out.reshape(shape)


def _shape(module: Any) -> tuple[int, ...]:
    *rows, words = module.weight.shape
    return (*rows, words * 32 // module.bits)


def _rows(array: mx.array) -> mx.array:
    return array.reshape(-1, array.shape[-1])


def _widened(scales: mx.array) -> mx.array:
    """Scales that are numbers in float32, so that products with them are rounded once."""
    return scales.astype(mx.float32) if mx.issubdtype(scales.dtype, mx.floating) else scales


def _has(module: nn.Module, key: str) -> bool:
    return module.get(key) is not None
