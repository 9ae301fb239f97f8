"""Qwen3 dense targets on mlx-lm's model code."""

from dataclasses import dataclass
from typing import Any

from mlx_lm.models.qwen3 import Model, ModelArgs

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.layered import (
    LayeredTarget,
    activation_dtype,
    check_layer_types,
    replace_attention,
)
from dflash_serve.adapters.rotary import Rotary


@dataclass
class Args(ModelArgs):
    """config.json, in which only full attention is served: mlx-lm's model has nothing else."""

    layer_types: list[str] | None = None
    use_sliding_window: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_attention(self)


def check_attention(args: Any) -> None:
    """Refuse layers that slide.

    Raises:
        AdapterError: naming the option, or the first such layer.
    """
    if args.use_sliding_window:
        raise AdapterError(
            "target config: use_sliding_window is true, which is not supported for Qwen3"
        )
    if args.layer_types is not None:
        check_layer_types(args.layer_types, args.num_hidden_layers, ("full_attention",))


class RowModel(Model):
    """mlx-lm's model with our caches and one rotary table for all layers."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        rotary = Rotary(
            args.head_dim, args.rope_theta, args.rope_scaling, args.max_position_embeddings
        )
        for layer in self.model.layers:
            replace_attention(layer, rotary)


class Qwen3Target(LayeredTarget):
    """A `TargetAdapter` whose layers all attend to all tokens."""

    model_classes = (RowModel, Args)

    def __init__(self, model: RowModel) -> None:
        args = model.args
        spec = AttentionSpec(args.num_key_value_heads, args.head_dim, activation_dtype(model))
        super().__init__(model, [spec] * args.num_hidden_layers)
