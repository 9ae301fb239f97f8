"""The parts of a text model of mlx-lm: its trunk, from tokens to the final norm, and its head.

Both run mlx-lm's own code. The trunk's loop over layers is given a `Seat` in place of each cache,
which hands the layer our cache and notes the residual stream. Knows nothing of caches.
"""

import copy
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dflash_serve.adapters.base import LayerCache
from dflash_serve.adapters.row_attention import as_class


class Seat:
    """Stands for the cache of one layer in one forward.

    ``cache`` None leaves the layer out: the residual stream passes it unchanged.
    """

    def __init__(self, cache: LayerCache | None) -> None:
        self.cache = cache
        self._passed: tuple[mx.array, mx.array] | None = None

    @property
    def entered(self) -> mx.array:
        """The residual stream before the layer."""
        assert self._passed is not None, "no layer took this seat"
        return self._passed[0]

    @property
    def left(self) -> mx.array:
        """The residual stream after the layer."""
        assert self._passed is not None, "no layer took this seat"
        return self._passed[1]

    def note(self, entered: mx.array, left: mx.array) -> mx.array:
        """Take what the layer was given and what it gave; gives back the second."""
        if self._passed is not None:
            raise LookupError("a layer runs more than once in a forward")
        self._passed = entered, left
        return left

    @property
    def offset(self) -> mx.array:
        """Asked by models that compute with positions before the first layer.

        Raises:
            LookupError: always; what embeds a token must not depend on where it stands.
        """
        raise LookupError("positions are used outside of the layers")

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        """No mask: our caches know who sees what."""


class Trunk:
    """The module of ``model`` that holds its layers, which are replaced by ones that take seats.

    Raises:
        LookupError: no module holds the layers, or the model itself does, with its head.
    """

    def __init__(self, model: nn.Module) -> None:
        path, name = _place(model)
        self._module = model
        for step in path:
            self._module = self._module[step]
        self.layers: list[nn.Module] = [_seated(layer) for layer in model.layers]
        self._module[name] = self.layers
        self.head: Callable[[mx.array], mx.array] = _headed(model, path)
        """From the trunk's output to logits."""

    def __call__(self, tokens: mx.array, seats: list[Seat]) -> mx.array:
        """Token ids [R, q] -> [R, q, H] after the final norm."""
        hidden: mx.array = self._module(tokens, cache=seats)
        return hidden


def _place(model: nn.Module) -> tuple[list[str], str]:
    """The names that lead to the module that holds the layers, and the name of its list."""
    layers = list(model.layers)
    for path, module in model.named_modules():
        for name, held in module.items():
            if isinstance(held, list) and path and _same(held, layers):
                return path.split("."), name
    raise LookupError("no module inside the model holds its layers")


def _same(held: list[Any], layers: list[Any]) -> bool:
    return len(held) == len(layers) and all(map(lambda a, b: a is b, held, layers))


def _seated(layer: nn.Module) -> nn.Module:
    """A copy of a layer that takes a `Seat` wherever mlx-lm's passes its cache."""
    kind = type(layer)

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> mx.array:
        entered = _given(self, *args, **kwargs)
        seat = next(given for given in (*args, *kwargs.values()) if isinstance(given, Seat))
        if seat.cache is None:
            return seat.note(entered, entered)
        args = tuple(seat.cache if given is seat else given for given in args)
        kwargs = {key: seat.cache if given is seat else given for key, given in kwargs.items()}
        return seat.note(entered, kind.__call__(self, *args, **kwargs))

    return as_class(layer, type(kind.__name__, (kind,), {"__call__": call}))


def _headed(module: nn.Module, path: list[str]) -> nn.Module:
    """A copy of the model in which the module at ``path`` gives back what it is given."""
    if not path:
        return as_class(module, type("Given", (type(module),), {"__call__": _given}))
    copied = copy.copy(module)
    copied[path[0]] = _headed(module[path[0]], path[1:])
    return copied


def _given(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The first argument, by position or by name."""
    return next(iter((*args, *kwargs.values())))
