"""Weights from files into a model: each is read once, checked, and brought to its dtype alone.

Tensors stay unread until `take` evaluates them one by one, so that no more than one of them exists
in two dtypes. Knows nothing of model families.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import check_names, open_shard, shard_paths
from dflash_serve.adapters.cpu_weights import CpuWeights, Sizes, Widening, choose
from dflash_serve.adapters.expand import expanded, growth, packed_modules

_log = logging.getLogger("dflash_serve")
_HALF = (mx.float16, mx.bfloat16)
_INFINITY = {mx.float16: 0x7C00, mx.bfloat16: 0x7F80, mx.float32: 0x7F80_0000}
"""The bits of a dtype's infinity; those of a NaN are more, those of a number are fewer."""
_VIEWS = {2: (mx.int16, mx.uint16), 4: (mx.int32, mx.uint32)}
"""Integers of a dtype's size."""


@dataclass(slots=True)
class Weights:
    """The unread tensors of a checkpoint by name, until a model takes them over.

    ``files``: which file each is from, first by its stored name, then by the model's.
    """

    directory: Path
    tensors: dict[str, mx.array] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    def place(self, name: str) -> Path:
        """The file that holds ``name``; the directory if the tensor was made from others."""
        return self.files.get(name, self.directory)

    def give(self, renamed: Mapping[str, mx.array], model: nn.Module, what: str) -> None:
        """Put the tensors, under the model's names, into the model, strictly. None stay here.

        Raises:
            AdapterError: naming the first missing, unexpected or misshapen tensor and its file.
        """
        origin = {id(tensor): self.files[name] for name, tensor in self.tensors.items()}
        found = ((name, origin.get(id(tensor))) for name, tensor in renamed.items())
        self.files = {name: path for name, path in found if path is not None}
        wanted: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
        check_names(renamed, wanted, what, self.place)
        model.update(tree_unflatten(list(renamed.items())))
        self.tensors = {}


@dataclass(frozen=True, slots=True)
class Taken:
    """What `take` did: bytes as on disk and as ``held`` now, and which became float32.

    ``left``: bytes that float32 would add to the quantised modules that were not to be expanded.
    """

    wanted: CpuWeights
    sizes: Sizes
    left: int
    widened: Widening
    held: int
    seconds: float


def open_weights(directory: Path) -> Weights:
    """The tensors of all shards, of which only the headers are read.

    Raises:
        AdapterError: a shard is missing or damaged, or holds a tensor that another one holds too.
    """
    weights = Weights(directory)
    for path in shard_paths(directory):
        for name, tensor in open_shard(path).items():
            if name in weights.files:
                raise AdapterError(f"{name} is in {weights.files[name]} and in {path}")
            weights.tensors[name], weights.files[name] = tensor, path
    return weights


def take(
    model: nn.Module,
    weights: Weights,
    dtype: mx.Dtype | None,
    wanted: CpuWeights = CpuWeights.AUTO,
    *,
    expand: Callable[[nn.Module], bool] = lambda module: False,
) -> Taken:
    """Read every parameter of a model, scan it, and bring it to ``dtype``; None: as stored.

    To float32, 16-bit weights are brought as ``wanted`` says, and so are the quantised modules that
    ``expand`` says: plain layers then take their places. Scales and biases of the others stay as
    they are: products read them in any dtype, to the same bits.

    Raises:
        AdapterError: a tensor cannot be read, or holds NaN or infinity, with file and name; or
            float32 is wanted and memory has no room for it.
    """
    started = time.perf_counter()
    kept = _quantised_parts(model)
    widening = dtype is not None and dtype == mx.float32  # MLX compares dtypes with no None
    packed = packed_modules(model) if widening else {}
    left = sum(growth(module) for module in packed.values() if not expand(module))
    packed = {path: module for path, module in packed.items() if expand(module)}
    sizes = sizes_of(model, dtype, expand)
    pending: list[tuple[str, mx.array]] = tree_flatten(model.parameters())
    widened = choose(wanted, sizes, str(weights.directory))
    if not widened.quantised:
        packed = {}
    units = list(_units(pending, packed))[::-1]
    pending = []  # neither list may hold on to what is read
    while units:
        path, tensors = units.pop()
        for name, value in tensors:
            floating = mx.issubdtype(value.dtype, mx.floating)
            if dtype is not None and widened.half and floating and name not in kept:
                changed = value.astype(dtype)
            else:
                changed = value
            _read(name, value, changed, weights)
            model.update(tree_unflatten([(name, changed)]))
        tensors = []
        if path is not None:
            _expand(model, path, packed.pop(path))
    model.eval()
    mx.eval(model)  # rotary tables too, which are no parameters: another thread will use them
    held = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    return Taken(wanted, sizes, left, widened, held, time.perf_counter() - started)


def sizes_of(
    model: nn.Module, dtype: mx.Dtype | None, expand: Callable[[nn.Module], bool]
) -> Sizes:
    """Bytes of a model's parameters, and what ``dtype`` and ``expand`` of `take` can add to them.

    Computes none of them.
    """
    tensors: list[tuple[str, mx.array]] = tree_flatten(model.parameters())
    stored = sum(value.nbytes for _, value in tensors)
    if dtype is None or dtype != mx.float32:
        return Sizes(stored, 0, 0)
    kept = _quantised_parts(model)
    half = [value.nbytes for name, value in tensors if value.dtype in _HALF and name not in kept]
    packed = packed_modules(model).values()
    return Sizes(stored, sum(half), sum(growth(module) for module in packed if expand(module)))


def _units(
    tensors: list[tuple[str, mx.array]], packed: Mapping[str, nn.Module]
) -> Iterator[tuple[str | None, list[tuple[str, mx.array]]]]:
    """Tensors that are read together: those of a module in ``packed``, with its path, or one."""

    def unit(named: tuple[str, mx.array]) -> str:
        path = named[0].rpartition(".")[0]
        return path if path in packed else named[0]

    for path, group in groupby(tensors, unit):
        yield path if path in packed else None, list(group)


def report(what: str, taken: Taken) -> None:
    """One log line on a checkpoint that was read, and one if its weights are not as stored."""
    sizes, widened = taken.sizes, taken.widened
    gigabytes = sizes.stored / 1e9
    _log.info(
        "%s loaded: %.2f GB in %.1f s (%.2f GB/s), %.2f GB in memory, peak %.2f GB",
        what,
        gigabytes,
        taken.seconds,
        gigabytes / taken.seconds,
        taken.held / 1e9,
        mx.get_peak_memory() / 1e9,
    )
    if widened.quantised:
        _log.info(
            "%s: quantised weights are float32 in memory: %.2f GB for %.2f GB on disk",
            what,
            taken.held / 1e9,
            gigabytes,
        )
    if taken.left:
        _log.info(
            "%s: quantised weights stay as stored: %.2f GB in memory, float32 takes %.2f GB more",
            what,
            taken.held / 1e9,
            taken.left / 1e9,
        )
    for kind, extra, done in (
        ("16-bit", sizes.half, widened.half),
        ("quantised", sizes.quantised, widened.quantised),
    ):
        if extra and not done:
            _log.log(
                logging.WARNING if taken.wanted is CpuWeights.AUTO else logging.INFO,
                "%s keeps its %s weights, which are slow on a CPU: float32 takes %.2f GB more",
                what,
                kind,
                extra / 1e9,
            )


def _quantised_parts(model: nn.Module) -> set[str]:
    """Names of scales and biases of quantised matrices, but for an embedding's.

    What an embedding gives has the dtype of its scales: it is that of all activations.
    """
    return {
        f"{path}.{key}"
        for path, module in model.named_modules()
        if "scales" in module and not isinstance(module, nn.QuantizedEmbedding)
        for key in ("scales", "biases")
        if key in module
    }


def _expand(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put the plain layer of a quantised module in its place."""
    model.update_modules(tree_unflatten([(path, expanded(module))]))


def _read(name: str, value: mx.array, changed: mx.array, weights: Weights) -> None:
    """Evaluate a tensor as stored and as changed, and refuse it if not all of it are numbers."""
    extremes = _extremes(value)
    try:
        mx.eval(changed, *extremes)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise AdapterError(f"{weights.place(name)}: {name} cannot be read: {reason}") from error
    if not extremes:
        return
    infinity = _INFINITY[value.dtype]
    negative = infinity | 1 << (8 * value.dtype.size - 1)
    highest, lowest = (cast(int, extreme.item()) for extreme in extremes)
    if highest >= infinity or lowest >= negative:
        count = mx.sum(~mx.isfinite(value)).item()
        raise AdapterError(
            f"{weights.place(name)}: {name} has {count} value(s) of {value.size} that are NaN "
            "or infinite"
        )


def _extremes(value: mx.array) -> tuple[mx.array, ...]:
    """The highest bits of a floating tensor's positive and of its negative values, to compare.

    As integers these are maxima of the signed and of the unsigned view: two fast passes, where
    asking each value takes many times as long.
    """
    if value.dtype not in _INFINITY or not value.size:
        return ()
    return tuple(value.view(view).max() for view in _VIEWS[value.dtype.size])


def checked_class(model_class: type[Any], weights: Weights, what: str) -> type[Any]:
    """A model class that mlx-lm's loader fills with ``weights``, strictly.

    The loader's own messages name no file, and its own list of files is not that of an index.
    """

    class Checked(model_class):
        def sanitize(self, ignored: dict[str, mx.array]) -> dict[str, mx.array]:
            given = dict(weights.tensors)
            return super().sanitize(given) if hasattr(model_class, "sanitize") else given

        def load_weights(self, renamed: list[tuple[str, mx.array]], strict: bool = True) -> None:
            weights.give(dict(renamed), self, what)

    return Checked
