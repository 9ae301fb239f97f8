"""Qwen3 targets with experts on mlx-lm's model code."""

from dataclasses import dataclass

from mlx_lm.models.qwen3_moe import Model, ModelArgs

from dflash_serve.adapters.layered import replace_attention
from dflash_serve.adapters.qwen3 import Qwen3Target, check_attention
from dflash_serve.adapters.rotary import Rotary


@dataclass
class Args(ModelArgs):
    """config.json, in which only full attention is served: mlx-lm's model has nothing else."""

    layer_types: list[str] | None = None
    use_sliding_window: bool = False

    def __post_init__(self) -> None:
        check_attention(self)


class RowModel(Model):
    """mlx-lm's model with our caches and one rotary table for all layers."""

    def __init__(self, args: Args) -> None:
        super().__init__(args)
        rotary = Rotary(
            args.head_dim, args.rope_theta, args.rope_scaling, args.max_position_embeddings
        )
        for layer in self.model.layers:
            replace_attention(layer, rotary)


class Qwen3MoeTarget(Qwen3Target):
    """A `TargetAdapter` whose layers all attend to all tokens."""

    model_classes = (RowModel, Args)
