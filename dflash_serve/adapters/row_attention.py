"""mlx-lm's attention modules over caches that attend by themselves.

Rows of a batch have lengths and arrays of their own, so no single call of MLX's attention can serve
them. mlx-lm's modules call ``scaled_dot_product_attention`` with their cache as an argument: the
subclass made here runs the module's own code, in which that one name means `_over_cache`. Model
code is used unchanged, and neither mlx-lm's modules nor their instances are modified.
"""

import copy
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dflash_serve.adapters.base import AdapterError, AttentionCache

_NAME = "scaled_dot_product_attention"


def attending_rows(attention: nn.Module) -> nn.Module:
    """A copy of a mlx-lm attention module that takes an `AttentionCache`; weights are shared.

    Raises:
        TypeError: as `over_rows`.
    """
    return as_class(attention, over_rows(type(attention)))


def attends(kind: type[nn.Module]) -> bool:
    """Whether a class of mlx-lm's is one that `over_rows` takes."""
    call = kind.__call__
    return isinstance(call, FunctionType) and _NAME in call.__code__.co_names


def as_class(module: nn.Module, made: type[nn.Module]) -> nn.Module:
    """A shallow copy of ``module`` as an instance of ``made``, which computes with its contents."""
    copied = copy.copy(module)
    copied.__class__ = made
    return copied


def over_rows(attention: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a mlx-lm attention class whose caches are `AttentionCache`.

    Raises:
        TypeError: the class does not call what is replaced, as after a change in mlx-lm.
    """
    if not attends(attention):
        raise TypeError(f"{attention.__module__}.{attention.__name__} does not call {_NAME}")
    return redirected(
        attention, {_NAME: _over_cache(f"{attention.__module__}.{attention.__name__}")}
    )


def redirected(kind: type[nn.Module], names: Mapping[str, Any]) -> type[nn.Module]:
    """A subclass of a mlx-lm class that runs its code, in which some global names mean others."""
    call = kind.__call__
    made = FunctionType(
        call.__code__,
        {**call.__globals__, **names},
        call.__name__,
        call.__defaults__,
        call.__closure__,
    )
    made.__kwdefaults__ = call.__kwdefaults__
    return type(f"Row{kind.__name__}", (kind,), {"__call__": made})


def _over_cache(name: str) -> Callable[..., mx.array]:
    """Stands for mlx-lm's function in the class ``name``."""

    def attend(
        queries: mx.array,
        keys: Any,
        values: Any,
        cache: AttentionCache,
        scale: float,
        mask: mx.array | None,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """The cache knows keys, values and who sees what."""
        if mask is not None:
            raise AdapterError(f"{name} has a mask of its own, which is not supported")
        return cache.attend(queries, scale, sinks=sinks)

    return attend
