"""A target over a text model of mlx-lm: what all families share. A family is a subclass.

Knows nothing of drafters or of how caches are kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import AdapterError, Captured, LayerCache
from dflash_serve.adapters.cache_spec import AttentionSpec, LayerSpec
from dflash_serve.adapters.expand import matrix
from dflash_serve.adapters.own_operations import use_own_operations
from dflash_serve.adapters.rotary import Rotary
from dflash_serve.adapters.row_attention import attending_rows


class LayeredTarget:
    """A `TargetAdapter` over ``model.embed_tokens``, ``model.layers``, ``model.norm``.

    ``text`` has these, its ``args``, and ``lm_head`` unless the embedding is its head too. A
    family's model replaces each layer's attention by one that takes our caches (`row_attention`).
    """

    model_classes: tuple[type, type]
    """Model and arguments classes for mlx-lm's loader."""

    faster_classes: Mapping[type, type[nn.Module]] = MappingProxyType({})
    """Classes of the family's modules that have a faster form here, as in `use_own_operations`."""

    def __init__(self, text: Any, cache_specs: Sequence[LayerSpec]) -> None:
        use_own_operations(text, self.faster_classes)
        self._text = text
        self._specs = tuple(cache_specs)

    def parameters(self) -> Any:
        """The tree of all weights."""
        return self._text.parameters()

    def weight(self, path: str) -> mx.array | None:
        """A linear layer's matrix, in float32 where it is stored quantised, or a norm's weight.

        ``path`` is the module's, as in ``model.layers.0.mlp.up_proj``. None if there is no such
        module, or one whose weight means something else.
        """
        module = dict(self._text.named_modules()).get(path)
        if isinstance(module, nn.QuantizedLinear):
            return None if module.get("global_scale") is not None else matrix(module)
        return module.weight if isinstance(module, nn.Linear | nn.RMSNorm) else None

    def scale_layers(self, factor: float) -> None:
        """Multiply every matrix of every layer, as of random weights that are too alike."""
        for layer in self._text.layers:
            layer.apply(lambda value: factor * value if value.ndim > 1 else value)

    @property
    def dtype(self) -> mx.Dtype:
        return activation_dtype(self._text)

    @property
    def cache_specs(self) -> tuple[LayerSpec, ...]:
        return self._specs

    @property
    def num_layers(self) -> int:
        return len(self._specs)

    @property
    def hidden_size(self) -> int:
        return int(self._text.args.hidden_size)

    @property
    def vocab_size(self) -> int:
        return int(self._text.args.vocab_size)

    @property
    def max_context(self) -> int:
        return int(self._text.args.max_position_embeddings)

    def embed(self, tokens: mx.array) -> mx.array:
        return self._text.model.embed_tokens(tokens)

    def forward(
        self,
        tokens: mx.array,
        caches: Sequence[LayerCache],
        tap_layers: tuple[int, ...] = (),
    ) -> Captured:
        residual: dict[int, mx.array] = {}
        for index, hidden in enumerate(self.after_layers(tokens, caches)):
            if index in tap_layers:
                residual[index] = hidden
        taps = mx.concatenate([residual[i] for i in tap_layers], axis=-1) if tap_layers else None
        return Captured(self.final_norm(hidden), taps)

    def after_layers(self, tokens: mx.array, caches: Sequence[Any]) -> Iterator[mx.array]:
        """The residual stream [R, q, H] after each layer of a forward, first layer first."""
        hidden = self.embed(tokens)
        for layer, cache in zip(self._text.model.layers, caches, strict=True):
            hidden = layer(hidden, mask=None, cache=cache)
            yield hidden

    def final_norm(self, hidden: mx.array) -> mx.array:
        return self._text.model.norm(hidden)

    def head(self, hidden: mx.array) -> mx.array:
        if "lm_head" in self._text:
            return self._text.lm_head(hidden)
        return self._text.model.embed_tokens.as_linear(hidden)

    def logits(self, hidden: mx.array) -> mx.array:
        return self.head(hidden)


def replace_attention(layer: nn.Module, rotary: Rotary) -> None:
    """Give a new layer attention over our caches, with its own weights and a shared rotation."""
    attention = attending_rows(layer.self_attn)
    attention.rope = rotary
    layer.self_attn = attention


def last_inputs(inputs: mx.array, kept: mx.array, count: int) -> mx.array:
    """The last ``count`` inputs of a convolution, [R, count, C], when ``kept`` [R] new ones stay.

    ``inputs`` [R, count + q, C] begin with those before the forward. Row r: [kept, kept + count).
    """
    at = kept[:, None] + mx.arange(count, dtype=mx.int32)
    return mx.take_along_axis(inputs, at[..., None], axis=1)


def window_specs(text: Any, head_dim: int, windows: Sequence[int | None]) -> list[AttentionSpec]:
    """What attention layers keep that differ in their windows alone, None where one sees all."""
    kv_heads, dtype = text.args.num_key_value_heads, activation_dtype(text)
    return [AttentionSpec(kv_heads, head_dim, dtype, window) for window in windows]


def activation_dtype(text: Any) -> mx.Dtype:
    """The dtype in which layers compute: of the embedding, or of its scales when quantised.

    Scales that are no floats (mxfp4 and its like) say nothing: then that of the first layer's.
    """
    embedding = text.model.embed_tokens
    first: mx.Dtype = getattr(embedding, "scales", embedding.weight).dtype
    if mx.issubdtype(first, mx.floating):
        return first
    arrays = (value for _, value in tree_flatten(text.model.layers[0].parameters()))
    return next(array.dtype for array in arrays if mx.issubdtype(array.dtype, mx.floating))


def check_layer_types(types: Sequence[str], layers: int, served: Sequence[str]) -> None:
    """Refuse a layer kind that no cache and no code here is for.

    Raises:
        AdapterError: naming the first such layer, or both counts.
    """
    for index, kind in enumerate(types):
        if kind not in served:
            raise AdapterError(
                f"target config: layer {index} is of type {kind!r}, which is not supported "
                f"(supported: {', '.join(served)})"
            )
    if len(types) != layers:
        raise AdapterError(
            f"target config: layer_types has {len(types)} entries for num_hidden_layers {layers}"
        )


def check_values(config: Mapping[str, Any], served: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse another value than those ``served`` of a key; a missing key has the first.

    Raises:
        AdapterError: naming the first such key.
    """
    for key, values in served.items():
        value = config.get(key, values[0])
        if value not in values:
            raise AdapterError(f"target config: {key} is {value!r}, which is not supported")
