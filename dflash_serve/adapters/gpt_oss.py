"""gpt-oss targets on mlx-lm's model code: experts, attention sinks, every other layer slides."""

from dataclasses import dataclass
from typing import Any

from mlx_lm.models.gpt_oss import Model, ModelArgs

from dflash_serve.adapters.layered import (
    LayeredTarget,
    check_values,
    replace_attention,
    window_specs,
)
from dflash_serve.adapters.mistral import FULL, SLIDING, layer_windows
from dflash_serve.adapters.rotary import Rotary

_TAKEN_FOR_GRANTED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (True,),
    "hidden_act": ("silu",),
    "swiglu_limit": (7.0,),
    "tie_word_embeddings": (False,),
}
"""What mlx-lm's model does without asking the config; the first value is the default."""


@dataclass
class Args(ModelArgs):
    """config.json; without ``layer_types`` the first layer slides, the second does not."""

    layer_types: list[str] | None = None
    max_position_embeddings: int = 131072

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> "Args":
        check_values(params, _TAKEN_FOR_GRANTED)
        args: Args = super().from_dict(params)
        return args

    def __post_init__(self) -> None:
        layers = self.num_hidden_layers
        self.layer_types = self.layer_types or ([SLIDING, FULL] * layers)[:layers]
        self.windows = layer_windows(self.layer_types, layers, self.sliding_window)


class RowModel(Model):
    """mlx-lm's model with our caches and one rotary table for all layers."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        rotary = Rotary(args.head_dim, args.rope_theta, args.rope_scaling)
        for layer in self.model.layers:
            replace_attention(layer, rotary)


class GptOssTarget(LayeredTarget):
    """A `TargetAdapter` of sliding and full layers."""

    model_classes = (RowModel, Args)

    def __init__(self, model: RowModel) -> None:
        super().__init__(model, window_specs(model, model.args.head_dim, model.args.windows))
