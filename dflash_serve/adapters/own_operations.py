"""mlx-lm's modules over this package's own operations, which are faster on CPUs.

A module whose code calls one of mlx-lm's gated units becomes an instance of a subclass in which
that name means ours, and an RMSNorm one that calls ours. Copies that share their weights, as in
`row_attention`.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import FunctionType, MappingProxyType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.models.activations import swiglu as their_swiglu
from mlx_lm.models.activations import swiglu_oai as their_clipped_swiglu

from dflash_serve.adapters.row_attention import as_class, redirected
from dflash_serve.kernels.gated_units import clipped_swiglu, swiglu
from dflash_serve.kernels.linear import linear
from dflash_serve.kernels.rms_norm import rms_norm

_OURS: tuple[tuple[object, Callable[..., mx.array]], ...] = (
    (their_swiglu, swiglu),
    (their_clipped_swiglu, clipped_swiglu),
)


class Norm(nn.RMSNorm):
    """MLX's module over `rms_norm`."""

    def __call__(self, x: mx.array) -> mx.array:
        return rms_norm(x, self.weight, self.eps)


class DenseLinear(nn.Linear):
    """MLX's layer over `linear`."""

    def __call__(self, x: mx.array) -> mx.array:
        return linear(x, self.weight, self.get("bias"))


class DenseEmbedding(nn.Embedding):
    """MLX's embedding, whose product as the head runs over `linear`."""

    def as_linear(self, x: mx.array) -> mx.array:
        return linear(x, self.weight)


_MADE: dict[type, type[nn.Module]] = {
    nn.Embedding: DenseEmbedding,
    nn.Linear: DenseLinear,
    nn.RMSNorm: Norm,
}


def use_own_operations(
    model: nn.Module, classes: Mapping[type, type[nn.Module]] = MappingProxyType({})
) -> None:
    """Exchange the modules in ``model`` that compute one by one what is a single operation here.

    ``classes``: those of one family, each with a class to put in its place.
    """
    known = {**_MADE, **classes}

    def exchanged(value: Any) -> Any:
        if not isinstance(value, nn.Module):
            return value
        kind: Any = type(value)
        made = known.get(kind) or _redirected(kind)
        return within(as_class(value, made) if made else value)

    def within(module: nn.Module) -> nn.Module:
        for name, part in module.items():
            module[name] = tree_map(exchanged, part, is_leaf=nn.Module.is_module)
        return module

    within(model)


@cache
def _redirected(kind: Any) -> type[nn.Module] | None:
    """A subclass that calls our units, None where ``kind`` calls none of theirs."""
    call = kind.__call__
    if not isinstance(call, FunctionType):
        return None
    names = {
        name: ours
        for theirs, ours in _OURS
        for name in call.__code__.co_names
        if call.__globals__.get(name) is theirs
    }
    return redirected(kind, names) if names else None
