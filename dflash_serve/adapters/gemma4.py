"""Gemma 4 targets on mlx-lm's model code: the text model, without its towers for images and sound.

Full layers have heads of another size and number than those that slide. The last layers of small
variants attend to keys and values of an earlier layer: each keeps a copy in a cache of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gemma4, gemma4_text

from dflash_serve.adapters import layered
from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.gemma3 import rotaries
from dflash_serve.adapters.mistral import FULL, SLIDING, layer_windows
from dflash_serve.adapters.row_attention import as_class
from dflash_serve.kernels.rms_norm import rms_norm

_TAKEN_FOR_GRANTED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "per_layer_config": (None,),
    "use_bidirectional_attention": (None, False, "vision"),
}
"""What mlx-lm's model does without asking the config; the first value is the default."""


@dataclass
class TextArgs(gemma4_text.ModelArgs):
    """config.json of a text model, with the defaults that transformers has."""

    num_key_value_heads: int = 4
    num_kv_shared_layers: int = 0
    sliding_window: int | None = None
    use_double_wide_mlp: bool = False
    final_logit_softcapping: float | None = None

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> "TextArgs":
        layered.check_values(params, _TAKEN_FOR_GRANTED)
        args: TextArgs = super().from_dict(params)
        return args

    def __post_init__(self) -> None:
        types, shared = self.layer_types or [], self.num_kv_shared_layers
        self.windows = layer_windows(types, self.num_hidden_layers, self.sliding_window)
        super().__post_init__()
        if set(types[: max(len(types) - shared, 0)]) != set(types):
            raise AdapterError(
                f"target config: num_kv_shared_layers is {shared}, but no layer before those has "
                f"keys and values for one of the types {', '.join(sorted(set(types)))}"
            )
        for key in ("num_experts", "top_k_experts", "moe_intermediate_size"):
            if self.enable_moe_block and not getattr(self, key):
                raise AdapterError(f"target config: {key} is missing, but enable_moe_block is true")


class PlainNorm(gemma4_text.RMSNormNoScale):
    """mlx-lm's norm without weights over our operation."""

    def __call__(self, x: mx.array) -> mx.array:
        return rms_norm(x, None, self.eps)


class _Layers(gemma4_text.Gemma4TextModel):
    """mlx-lm's layers, with what enters each beside the residual stream."""

    def inputs(self, tokens: mx.array, hidden: mx.array) -> Sequence[mx.array | None]:
        """An embedding of the tokens for each layer, which small variants have."""
        if not self.hidden_size_per_layer_input:
            return [None] * len(self.layers)
        rows = self._project_per_layer_inputs(hidden, self._get_per_layer_inputs(tokens))
        return [rows[:, :, index] for index in range(len(self.layers))]


class RowTextModel(gemma4_text.Model):
    """mlx-lm's model with our caches and one rotary table for each kind of layer."""

    def __init__(self, args: TextArgs) -> None:
        dims = {FULL: args.global_head_dim or args.head_dim, SLIDING: args.head_dim}
        rotary = rotaries(args.rope_parameters, dims, args.max_position_embeddings)
        super().__init__(args)
        self.model: nn.Module = as_class(self.model, _Layers)
        for layer in self.layers:
            layered.replace_attention(layer, rotary[layer.layer_type])


@dataclass
class Args(gemma4.ModelArgs):
    """config.json with the text model's part in ``text_config``."""

    text_config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.text_config = {"vocab_size": self.vocab_size} | self.text_config


class RowModel(gemma4.Model):
    """mlx-lm's reading of the checkpoint, over a text model with our caches."""

    def __init__(self, args: Args) -> None:
        nn.Module.__init__(self)
        self.args = args
        self.model_type = args.model_type
        self.language_model = RowTextModel(TextArgs.from_dict(args.text_config))


class Gemma4TextTarget(layered.LayeredTarget):
    """A text model by itself: a `TargetAdapter` of sliding and full layers."""

    model_classes = (RowTextModel, TextArgs)
    faster_classes = MappingProxyType({gemma4_text.RMSNormNoScale: PlainNorm})

    def __init__(self, model: RowTextModel) -> None:
        dtype = layered.activation_dtype(model)
        specs = [
            AttentionSpec(layer.self_attn.n_kv_heads, layer.self_attn.head_dim, dtype, window)
            for layer, window in zip(model.layers, model.args.windows, strict=True)
        ]
        super().__init__(model, specs)

    def embed(self, tokens: mx.array) -> mx.array:
        return super().embed(tokens) * self._text.model.embed_scale

    def after_layers(self, tokens: mx.array, caches: Sequence[Any]) -> Iterator[mx.array]:
        inner = self._text.model
        hidden = self.embed(tokens)
        inputs = inner.inputs(tokens, hidden)
        written: dict[int, Any] = {}  # keys and values of this forward's tokens, by layer
        steps = zip(inner.layers, caches, inner.previous_kvs, inputs, strict=True)
        for index, (layer, cache, donor, row) in enumerate(steps):
            shared = written.get(donor)  # None: the layer makes its own
            hidden, written[index], _ = layer(
                hidden, cache=cache, per_layer_input=row, shared_kv=shared, offset=cache.offset
            )
            yield hidden

    def logits(self, hidden: mx.array) -> mx.array:
        cap = self._text.args.final_logit_softcapping
        logits = self.head(hidden)
        return gemma4_text.logit_softcap(cap, logits) if cap else logits


class Gemma4Target(Gemma4TextTarget):
    """The text model of a checkpoint that can also see or hear."""

    model_classes = (RowModel, Args)

    def __init__(self, model: RowModel) -> None:
        super().__init__(model.language_model)
