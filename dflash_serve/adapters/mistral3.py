"""Mistral 3 and Ministral 3 targets: the text model, without its vision tower."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import ministral3, mistral3

from dflash_serve.adapters import mistral
from dflash_serve.adapters.base import AdapterError, AttentionCache
from dflash_serve.adapters.layered import replace_attention
from dflash_serve.adapters.rotary import Rotary
from dflash_serve.adapters.row_attention import as_class

_ROPE_NEEDS = ("rope_theta", "llama_4_scaling_beta", "original_max_position_embeddings")


@dataclass
class MinistralArgs(ministral3.ModelArgs):
    """config.json of a Ministral 3's text model."""

    layer_types: list[str] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        types = self.layer_types or [mistral.FULL] * self.num_hidden_layers
        self.windows = mistral.layer_windows(types, self.num_hidden_layers, self.sliding_window)
        self.layer_types = None  # all full: mlx-lm's model must have one such layer
        super().__post_init__()
        if not self.max_position_embeddings:
            raise AdapterError("target config: max_position_embeddings is missing")
        for key in _ROPE_NEEDS:
            if key not in (self.rope_parameters or {}):
                raise AdapterError(f"target config: rope_parameters has no {key}")


class MinistralModel(ministral3.Model):
    """mlx-lm's model with our caches and one rotary table for all layers."""

    def __init__(self, args: MinistralArgs) -> None:
        super().__init__(args)
        rope = args.rope_parameters
        dims = self.layers[0].self_attn.head_dim
        rotary = Rotary(dims, rope["rope_theta"], rope, args.max_position_embeddings)
        for layer in self.model.layers:
            replace_attention(layer, rotary)
            layer.self_attn = _scaled(layer.self_attn)


def _scaled(attention: nn.Module) -> nn.Module:
    """A copy of an attention over our caches whose queries are scaled by their own positions.

    mlx-lm's knows one offset per row; a cache may give a position per token.
    """
    kind = type(attention)
    beta, length = attention.scaling_beta, attention.original_max_position_embeddings

    def call(
        self: nn.Module, x: mx.array, attn_scale: None, mask: None, cache: AttentionCache
    ) -> mx.array:
        at = cache.offset
        if at.ndim == 1:
            at = at[:, None] + mx.arange(x.shape[1], dtype=mx.int32)
        scales = 1 + beta * mx.log(1 + mx.floor(at / length))
        return kind.__call__(self, x, scales[:, None, :, None].astype(x.dtype), mask, cache)

    return as_class(attention, type(kind.__name__, (kind,), {"__call__": call}))


_TEXTS: dict[str, tuple[type[nn.Module], Any]] = {
    "mistral": (mistral.RowModel, mistral.Args),
    "ministral3": (MinistralModel, MinistralArgs),
}
"""``model_type`` of ``text_config`` -> model and arguments classes."""


@dataclass
class Args(mistral3.ModelArgs):
    """config.json with the text model's part in ``text_config``."""

    text_config: dict[str, Any]
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        defaults = {"model_type": "mistral", "tie_word_embeddings": self.tie_word_embeddings}
        self.text_config = defaults | self.text_config
        kind = self.text_config["model_type"]
        if kind not in _TEXTS:
            raise AdapterError(
                f"target config: text_config.model_type is {kind!r}, which is not supported "
                f"(supported: {', '.join(_TEXTS)})"
            )


class RowModel(mistral3.Model):
    """mlx-lm's reading of the checkpoint, over a text model with our caches."""

    def __init__(self, args: Args) -> None:
        nn.Module.__init__(self)
        text_class, args_class = _TEXTS[args.text_config["model_type"]]
        self.args = args
        self.model_type = args.model_type
        self.language_model = text_class(args_class.from_dict(args.text_config))


class MinistralTarget(mistral.MistralTarget):
    """A text model by itself."""

    model_classes = (MinistralModel, MinistralArgs)


class Mistral3Target(mistral.MistralTarget):
    """The text model of a checkpoint that can also see."""

    model_classes = (RowModel, Args)

    def __init__(self, model: RowModel) -> None:
        super().__init__(model.language_model)
