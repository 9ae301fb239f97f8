"""Which of mlx-lm's modules run over our operations, and that nothing else changes."""

from collections import Counter

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import activations, llama, switch_layers

from dflash_serve.adapters.own_operations import (
    DenseEmbedding,
    DenseLinear,
    Norm,
    use_own_operations,
)


def model() -> llama.Model:
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        num_attention_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=20,
        attention_bias=True,
    )
    mx.random.seed(0)
    return llama.Model(args)


def kinds(module: nn.Module) -> Counter[type]:
    return Counter(type(part) for part in module.modules())


def test_all_layers_norms_and_embeddings_are_exchanged() -> None:
    theirs, ours = model(), model()
    use_own_operations(ours)
    before, after = kinds(theirs), kinds(ours)
    for old, new in ((nn.Linear, DenseLinear), (nn.RMSNorm, Norm), (nn.Embedding, DenseEmbedding)):
        assert before[old] == after[new] > 0
        assert after[old] == 0
    assert after[llama.MLP] == 0
    mlps = [kind for kind in after if issubclass(kind, llama.MLP)]
    assert sum(after[kind] for kind in mlps) == 2
    use_own_operations(ours)
    assert kinds(ours) == after
    tokens = mx.array([[1, 5, 7]])
    assert mx.array_equal(ours(tokens), theirs(tokens)).item()


def test_weights_are_shared_with_the_module_that_was_there() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = [nn.Linear(4, 4), {"norm": nn.RMSNorm(4)}]

    holder = Holder()
    linear = holder.parts[0]
    use_own_operations(holder)
    assert type(linear) is nn.Linear
    assert holder.parts[0].weight is linear.weight
    assert type(holder.parts[1]["norm"]) is Norm


@pytest.mark.parametrize("unit", [switch_layers.SwiGLU, activations.SwigluOAI])
def test_experts_units_are_exchanged(unit: type[nn.Module]) -> None:
    holder = nn.Sequential(unit())
    x, gate = mx.random.normal((2, 3, 40)), 9 * mx.random.normal((2, 3, 40))
    want = holder.layers[0](x, gate)
    use_own_operations(holder)
    assert type(holder.layers[0]) is not unit
    assert mx.array_equal(holder.layers[0](x, gate), want).item()


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return gate + up


class Another(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        return swiglu(x, x)


def test_another_function_of_that_name_stays() -> None:
    holder = nn.Sequential(Another())
    use_own_operations(holder)
    assert type(holder.layers[0]) is Another
