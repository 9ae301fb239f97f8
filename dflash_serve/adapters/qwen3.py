"""Qwen3 dense targets on mlx-lm's model code: taps, and logits only where asked.

Knows nothing of drafters or of how caches are kept.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.qwen3 import Model, ModelArgs

from dflash_serve.adapters.base import CacheLayout, Captured, LayerCache
from dflash_serve.adapters.rotary import Rotary


class SharedRotaryModel(Model):
    """mlx-lm's model with one rotary table for all layers: a third of its operations on a CPU."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        rotary = Rotary(
            args.head_dim, args.rope_theta, args.rope_scaling, args.max_position_embeddings
        )
        for layer in self.model.layers:
            layer.self_attn.rope = rotary


class Qwen3Target:
    """A `TargetAdapter` over ``mlx_lm.models.qwen3.Model``, which runs unchanged."""

    model_classes = (SharedRotaryModel, ModelArgs)
    """Model and arguments classes for mlx-lm's loader."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._args = model.args
        self._dtype = _activation_dtype(model)

    @property
    def layout(self) -> CacheLayout:
        args = self._args
        return CacheLayout(
            args.num_hidden_layers, args.num_key_value_heads, args.head_dim, self._dtype
        )

    @property
    def num_layers(self) -> int:
        return int(self._args.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        return int(self._args.hidden_size)

    @property
    def vocab_size(self) -> int:
        return int(self._args.vocab_size)

    @property
    def max_context(self) -> int:
        return int(self._args.max_position_embeddings)

    def embed(self, tokens: mx.array) -> mx.array:
        return self._model.model.embed_tokens(tokens)

    def forward(
        self,
        tokens: mx.array,
        mask: mx.array,
        caches: Sequence[LayerCache],
        tap_layers: tuple[int, ...] = (),
    ) -> Captured:
        inner = self._model.model
        hidden = self.embed(tokens)
        residual: dict[int, mx.array] = {}
        for index, (layer, cache) in enumerate(zip(inner.layers, caches, strict=True)):
            hidden = layer(hidden, mask, cache)
            if index in tap_layers:
                residual[index] = hidden
        taps = mx.concatenate([residual[i] for i in tap_layers], axis=-1) if tap_layers else None
        return Captured(inner.norm(hidden), taps)

    def logits(self, hidden: mx.array) -> mx.array:
        if self._args.tie_word_embeddings:
            return self._model.model.embed_tokens.as_linear(hidden)
        return self._model.lm_head(hidden)


def _activation_dtype(model: Any) -> mx.Dtype:
    """The dtype that leaves the embedding: of the weight, or of the scales when quantised."""
    embedding = model.model.embed_tokens
    dtype: mx.Dtype = getattr(embedding, "scales", embedding.weight).dtype
    return dtype
