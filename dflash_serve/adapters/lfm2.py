"""LFM2 targets on mlx-lm's model code: short convolutions between layers that attend."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models import lfm2, lfm2_moe

from dflash_serve.adapters.base import StateCache
from dflash_serve.adapters.cache_spec import AttentionSpec, LayerSpec, StateArray, StateSpec
from dflash_serve.adapters.layered import (
    LayeredTarget,
    activation_dtype,
    check_layer_types,
    check_values,
    last_inputs,
    replace_attention,
)
from dflash_serve.adapters.rotary import Rotary
from dflash_serve.adapters.row_attention import as_class

_TAKEN_FOR_GRANTED: dict[str, tuple[Any, ...]] = {
    "tie_embedding": (True,),
    "tie_word_embeddings": (True,),
}
"""What mlx-lm's model does without asking the config; the first value is the default."""


@dataclass
class Args(lfm2.ModelArgs):
    """config.json."""

    tie_embedding: bool = True
    tie_word_embeddings: bool = True


@dataclass
class MoeArgs(lfm2_moe.ModelArgs):
    """config.json of the form with experts."""

    tie_embedding: bool = True
    tie_word_embeddings: bool = True


class RowShortConv(lfm2.ShortConv):
    """mlx-lm's short convolution over a `StateCache`, which holds the last inputs of it."""

    def __call__(self, x: mx.array, mask: None = None, cache: StateCache | None = None) -> mx.array:
        assert cache is not None
        gate_in, gate_out, inner = mx.split(self.in_proj(x), 3, axis=-1)
        inputs = mx.concatenate([cache.state[0], gate_in * inner], axis=1)  # [R, L - 1 + q, H]

        def advance(state: tuple[mx.array, ...], kept: mx.array) -> tuple[mx.array, ...]:
            return (last_inputs(inputs, kept, self.L_cache - 1),)

        cache.record(advance)
        return self.out_proj(gate_out * self.conv(inputs))


def _over_caches(model: lfm2.Model | lfm2_moe.Model) -> None:
    """Give every layer of a new model the module that takes our caches."""
    args = model.args
    check_values(vars(args), _TAKEN_FOR_GRANTED)
    if args.layer_types is not None:
        check_layer_types(args.layer_types, args.num_hidden_layers, ("conv", "full_attention"))
    dims = args.hidden_size // args.num_attention_heads
    rotary = Rotary(dims, args.rope_theta, args.rope_parameters, args.max_position_embeddings)
    for layer in model.layers:
        if layer.is_attention_layer:
            replace_attention(layer, rotary)
        else:
            layer.conv = as_class(layer.conv, RowShortConv)


class RowModel(lfm2.Model):
    """mlx-lm's model with our caches and one rotary table for all layers."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        _over_caches(self)


class RowMoeModel(lfm2_moe.Model):
    """The same with experts."""

    def __init__(self, args: MoeArgs) -> None:
        super().__init__(args)
        _over_caches(self)


class Lfm2Target(LayeredTarget):
    """A `TargetAdapter` of layers that convolve and layers that attend."""

    model_classes = (RowModel, Args)

    def __init__(self, model: RowModel) -> None:
        args, dtype = model.args, activation_dtype(model)
        heads = args.num_attention_heads
        attends = AttentionSpec(args.num_key_value_heads, args.hidden_size // heads, dtype)
        convolves = StateSpec((StateArray((args.conv_L_cache - 1, args.hidden_size), dtype),))
        specs: list[LayerSpec] = [
            attends if layer.is_attention_layer else convolves for layer in model.layers
        ]
        super().__init__(model, specs)

    def final_norm(self, hidden: mx.array) -> mx.array:
        return self._text.model.embedding_norm(hidden)


class Lfm2MoeTarget(Lfm2Target):
    """The form with experts."""

    model_classes = (RowMoeModel, MoeArgs)
