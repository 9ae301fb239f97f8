"""Qwen3 dense targets on mlx-lm's model code."""

from mlx_lm.models.qwen3 import Attention, Model, ModelArgs

from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.layered import LayeredTarget, activation_dtype
from dflash_serve.adapters.rotary import Rotary
from dflash_serve.adapters.row_attention import over_rows

RowAttention = over_rows(Attention)


class RowModel(Model):
    """mlx-lm's model with our caches and one rotary table for all layers."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        rotary = Rotary(
            args.head_dim, args.rope_theta, args.rope_scaling, args.max_position_embeddings
        )
        for layer in self.model.layers:
            layer.self_attn = RowAttention(args)
            layer.self_attn.rope = rotary


class Qwen3Target(LayeredTarget):
    """A `TargetAdapter` whose layers all attend to all tokens."""

    model_classes = (RowModel, ModelArgs)

    def __init__(self, model: RowModel) -> None:
        args = model.args
        spec = AttentionSpec(args.num_key_value_heads, args.head_dim, activation_dtype(model))
        super().__init__(model, [spec] * args.num_hidden_layers)
