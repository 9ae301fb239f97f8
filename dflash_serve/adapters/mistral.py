"""Mistral and Llama targets on mlx-lm's Llama code; Mistral's may have a sliding window.

mlx-lm runs Mistral without its window. Here the window is each layer's cache's, so the model is
built of full layers and only `AttentionSpec.window` tells them apart.
"""

from dataclasses import dataclass
from typing import Any

from mlx_lm.models.llama import Attention, Model, ModelArgs

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.layered import (
    LayeredTarget,
    activation_dtype,
    check_layer_types,
    replace_attention,
)
from dflash_serve.adapters.rotary import Rotary
from dflash_serve.adapters.row_attention import over_rows

_FULL, _SLIDING = "full_attention", "sliding_attention"
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Those that take one offset per row."""

RowAttention = over_rows(Attention)


@dataclass
class Args(ModelArgs):
    """config.json with the defaults that transformers has.

    ``layer_types`` say which layers slide; without them all do, where a Mistral has a window.
    ``rope_parameters`` is where transformers 5 keeps ``rope_theta`` and the scaling.
    """

    head_dim: int | None = None
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    layer_types: list[str] | None = None
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        types = self.layer_types or [self._default_type] * self.num_hidden_layers
        check_layer_types(types, self.num_hidden_layers, (_FULL, _SLIDING))
        if _SLIDING in types and (type(self.sliding_window) is not int or self.sliding_window < 1):
            raise AdapterError(
                f"target config: sliding_window is {self.sliding_window!r}, but sliding layers "
                "need a number from 1"
            )
        self.windows = tuple(self.sliding_window if kind == _SLIDING else None for kind in types)
        self.layer_types = None
        super().__post_init__()
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        if not self.max_position_embeddings:
            raise AdapterError("target config: max_position_embeddings is missing")
        self._read_rope()

    @property
    def _default_type(self) -> str:
        slides = self.model_type == "mistral" and self.sliding_window is not None
        return _SLIDING if slides else _FULL

    def _read_rope(self) -> None:
        parameters = self.rope_parameters or {}
        self.rope_theta = parameters.get("rope_theta") or self.rope_theta
        self.rope_scaling = self.rope_scaling or self.rope_parameters
        scaling = self.rope_scaling or {}
        kind = scaling.get("rope_type") or scaling.get("type") or "default"
        if kind not in _ROPE_TYPES:
            raise AdapterError(
                f"target config: rope_type is {kind!r}, supported are {', '.join(_ROPE_TYPES)}"
            )
        if self.rope_traditional:
            raise AdapterError("target config: rope_traditional is true, which is not supported")


class RowModel(Model):
    """mlx-lm's model with our caches and one rotary table for all layers."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        dims = self.layers[0].self_attn.head_dim
        rotary = Rotary(dims, args.rope_theta, args.rope_scaling, args.max_position_embeddings)
        for layer in self.model.layers:
            replace_attention(layer, RowAttention(args), rotary)


class MistralTarget(LayeredTarget):
    """A `TargetAdapter` whose layers attend to all tokens or to a window of them."""

    model_classes = (RowModel, Args)

    def __init__(self, model: RowModel) -> None:
        args, dtype = model.args, activation_dtype(model)
        specs = [
            AttentionSpec(args.num_key_value_heads, args.head_dim, dtype, window)
            for window in args.windows
        ]
        super().__init__(model, specs)
