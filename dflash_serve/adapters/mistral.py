"""Mistral and Llama targets on mlx-lm's Llama code; Mistral's may have a sliding window.

mlx-lm runs Mistral without its window. Here the window is each layer's cache's, so the model is
built of full layers and only `AttentionSpec.window` tells them apart.
"""

from dataclasses import dataclass
from typing import Any

from mlx_lm.models.llama import Model, ModelArgs

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.layered import (
    LayeredTarget,
    check_layer_types,
    replace_attention,
    window_specs,
)
from dflash_serve.adapters.rotary import Rotary

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass
class Args(ModelArgs):
    """config.json with the defaults that transformers has.

    ``layer_types`` say which layers slide; without them all do, where a Mistral has a window.
    ``rope_parameters`` is where transformers 5 keeps ``rope_theta`` and the scaling.
    """

    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    layer_types: list[str] | None = None
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        slides = self.model_type != "llama" and self.sliding_window is not None
        types = self.layer_types or [SLIDING if slides else FULL] * self.num_hidden_layers
        self.windows = layer_windows(types, self.num_hidden_layers, self.sliding_window)
        self.layer_types = None  # all full: mlx-lm's model must have one such layer
        super().__post_init__()
        if not self.max_position_embeddings:
            raise AdapterError("target config: max_position_embeddings is missing")
        self._read_rope()

    def _read_rope(self) -> None:
        parameters = self.rope_parameters or {}
        self.rope_theta = parameters.get("rope_theta") or self.rope_theta
        self.rope_scaling = self.rope_scaling or self.rope_parameters
        if self.rope_traditional:
            raise AdapterError("target config: rope_traditional is true, which is not supported")


def layer_windows(types: list[str], layers: int, window: int | None) -> tuple[int | None, ...]:
    """The window of each layer, None where it sees all tokens.

    Raises:
        AdapterError: a layer is of another kind, or slides without a window.
    """
    check_layer_types(types, layers, (FULL, SLIDING))
    if SLIDING in types and (type(window) is not int or window < 1):
        raise AdapterError(
            f"target config: sliding_window is {window!r}, but sliding layers need a number from 1"
        )
    return tuple(window if kind == SLIDING else None for kind in types)


class RowModel(Model):
    """mlx-lm's model with our caches and one rotary table for all layers."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        dims = self.layers[0].self_attn.head_dim
        rotary = Rotary(dims, args.rope_theta, args.rope_scaling, args.max_position_embeddings)
        for layer in self.model.layers:
            replace_attention(layer, rotary)


class MistralTarget(LayeredTarget):
    """A `TargetAdapter` whose layers attend to all tokens or to a window of them."""

    model_classes = (RowModel, Args)

    def __init__(self, model: RowModel) -> None:
        dims = model.layers[0].self_attn.head_dim
        super().__init__(model, window_specs(model, dims, model.args.windows))
