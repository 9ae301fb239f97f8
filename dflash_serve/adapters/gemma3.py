"""Gemma 3 targets on mlx-lm's model code: the text model, without its vision tower.

Most layers slide, some attend to all tokens, and each kind has a rotation of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gemma3, gemma3_text

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.layered import (
    LayeredTarget,
    check_values,
    replace_attention,
    window_specs,
)
from dflash_serve.adapters.mistral import FULL, SLIDING, layer_windows
from dflash_serve.adapters.rotary import Rotary
from dflash_serve.kernels.rms_norm import rms_norm

_TAKEN_FOR_GRANTED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "use_bidirectional_attention": (False, None),
}
"""What mlx-lm's model does without asking the config; the first value is the default."""


def rotaries(
    rotations: Mapping[str, Any], dims: Mapping[str, int], limit: int
) -> dict[str, Rotary]:
    """A rotation for each kind of layer, of ``dims`` by kind.

    Raises:
        AdapterError: a kind has no base frequency, or a rotation that is not supported.
    """
    made = {}
    for kind, size in dims.items():
        rotation = rotations.get(kind)
        if not isinstance(rotation, dict) or not rotation.get("rope_theta"):
            raise AdapterError(f"target config: rope_parameters has no rope_theta for {kind}")
        made[kind] = Rotary(size, rotation["rope_theta"], rotation, limit)
    return made


@dataclass
class TextArgs(gemma3_text.ModelArgs):
    """config.json of a text model, with the defaults that transformers has.

    ``layer_types`` say which layers slide; without them all but each ``sliding_window_pattern``-th
    do. ``rope_parameters`` is where transformers 5 keeps the rotation of each kind.
    """

    vocab_size: int = 262208
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    sliding_window: int | None = None
    max_position_embeddings: int = 131072
    layer_types: list[str] | None = None
    rope_parameters: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> "TextArgs":
        check_values(params, _TAKEN_FOR_GRANTED)
        args: TextArgs = super().from_dict(params)
        return args

    def __post_init__(self) -> None:
        layers, pattern = self.num_hidden_layers, self.sliding_window_pattern
        types = self.layer_types or [
            SLIDING if (index + 1) % pattern else FULL for index in range(layers)
        ]
        self.windows = layer_windows(types, layers, self.sliding_window)
        self.rotations = self.rope_parameters or {
            FULL: {"rope_theta": self.rope_theta} | (self.rope_scaling or {}),
            SLIDING: {"rope_theta": self.rope_local_base_freq},
        }


class ShiftedNorm(gemma3_text.RMSNorm):
    """mlx-lm's norm, whose weights are stored less one, over our operation."""

    def __call__(self, x: mx.array) -> mx.array:
        return rms_norm(x, self.weight, self.eps, 1.0)


class RowTextModel(gemma3_text.Model):
    """mlx-lm's model with our caches and one rotary table for each kind of layer."""

    def __init__(self, args: TextArgs) -> None:
        dims = {FULL: args.head_dim, SLIDING: args.head_dim}
        rotary = rotaries(args.rotations, dims, args.max_position_embeddings)
        super().__init__(args)
        self.pop("lm_head")
        for layer, window in zip(self.layers, args.windows, strict=True):
            replace_attention(layer, rotary[FULL if window is None else SLIDING])

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The head is the embedding, unless a checkpoint has one, as older conversions do."""
        if "lm_head.weight" in weights:
            self.lm_head = nn.Linear(self.args.hidden_size, self.args.vocab_size, bias=False)
        return weights


@dataclass
class Args(gemma3.ModelArgs):
    """config.json with the text model's part in ``text_config``."""

    text_config: dict[str, Any]

    def __post_init__(self) -> None:
        self.text_config = {"vocab_size": self.vocab_size} | self.text_config


class RowModel(gemma3.Model):
    """mlx-lm's reading of the checkpoint, over a text model with our caches."""

    def __init__(self, args: Args) -> None:
        nn.Module.__init__(self)
        self.args = args
        self.model_type = args.model_type
        self.language_model = RowTextModel(TextArgs.from_dict(args.text_config))


class Gemma3TextTarget(LayeredTarget):
    """A text model by itself: a `TargetAdapter` of sliding and full layers."""

    model_classes = (RowTextModel, TextArgs)
    faster_classes = MappingProxyType({gemma3_text.RMSNorm: ShiftedNorm})

    def __init__(self, model: RowTextModel) -> None:
        super().__init__(model, window_specs(model, model.args.head_dim, model.args.windows))

    def embed(self, tokens: mx.array) -> mx.array:
        rows = super().embed(tokens)
        return rows * mx.array(self.hidden_size**0.5, mx.bfloat16).astype(rows.dtype)


class Gemma3Target(Gemma3TextTarget):
    """The text model of a checkpoint that can also see."""

    model_classes = (RowModel, Args)

    def __init__(self, model: RowModel) -> None:
        super().__init__(model.language_model)
