"""Paths to adapters: loads a target, loads a drafter, checks that they fit each other.

Runs on any thread: all arrays are evaluated before they are handed over. Every failure is an
`AdapterError` of one line.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import load_model

from dflash_serve.adapters import registry
from dflash_serve.adapters.base import AdapterError, TargetAdapter, TargetSizes
from dflash_serve.adapters.checkpoint import read_config
from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.dflash_config import DFlashConfig, parse_dflash_config
from dflash_serve.adapters.drafter_checkpoint import (
    drafter_class,
    open_drafter,
    quantise_as_stored,
    read_published,
)
from dflash_serve.adapters.layered import LayeredTarget
from dflash_serve.adapters.target_config import check_quantization, check_types
from dflash_serve.adapters.verify_linear import has_own_product, use_own_products
from dflash_serve.adapters.weights import Weights, checked_class, open_weights, report, take

_MISFITS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What mlx-lm's model code raises over a config or tensors that make no sense."""


def load_target(
    directory: Path,
    cpu_weights: CpuWeights = CpuWeights.AUTO,
    *,
    own_products: bool = True,
) -> TargetAdapter:
    """A target in Hugging Face or mlx-lm layout, quantised or not, sharded or not.

    On a CPU the activations become float32, the only dtype that is fast there, and so do 16-bit
    and quantised matrices, as ``cpu_weights`` says. Without ``own_products`` those that stay
    quantised are multiplied by MLX's own operation, to compare with.

    Raises:
        AdapterError: the checkpoint is damaged, not one that can be served, or too large for what
            ``cpu_weights`` asks.
    """
    adapter, model, weights = _open_target(directory)
    what, dtype = f"target {directory}", mx.float32 if on_cpu() else None
    _check_place(cpu_weights, what)
    expand = _expands(cpu_weights, own_products)
    report(what, take(model, weights, dtype, cpu_weights, expand=expand))
    if own_products:
        use_own_products(model)
    target: TargetAdapter = adapter(model)
    return target


def check_files(target: Path, drafter: Path | None) -> None:
    """Everything that `load_target` and `load_drafter` ask of checkpoints but for their values.

    Reads configs and headers only.

    Raises:
        AdapterError: a checkpoint is damaged or cannot be served, or they do not fit.
    """
    opened = open_target(target)
    if drafter is not None:
        _open_drafter(drafter, opened)


def open_target(directory: Path) -> TargetAdapter:
    """A target for its sizes and tables: a tensor is read when it is first used.

    Raises:
        AdapterError: the checkpoint is damaged, or not one that can be served.
    """
    adapter, model, _ = _open_target(directory)
    target: TargetAdapter = adapter(model)
    return target


def _open_target(directory: Path) -> tuple[Any, Any, Weights]:
    """A target's adapter, mlx-lm's model with tensors that are not read yet, and their files."""
    config = read_config(directory)
    adapter = registry.find_target(str(config.get("model_type")))
    what = f"target {directory}"
    check_types(config, what)
    check_quantization(config, what)
    weights = open_weights(directory)
    return adapter, _fill(adapter, weights, what), weights


def _fill(adapter: Any, weights: Weights, what: str) -> Any:
    """mlx-lm's model of a checkpoint, with tensors that are not read yet."""
    model_class, args_class = adapter.model_classes
    checked = checked_class(model_class, weights, what)
    try:
        model, _ = load_model(
            weights.directory,
            lazy=True,
            strict=False,
            get_model_classes=lambda config: (checked, args_class),
        )
    except _MISFITS as error:
        raise AdapterError(f"{what} does not match its config: {_reason(error)}") from error
    return model


def make_model(config: dict[str, Any]) -> tuple[Any, Any]:
    """A family's adapter, and mlx-lm's model with the random weights of its class, not computed.

    Raises:
        AdapterError: no such family is served, or the config makes no sense.
    """
    adapter = registry.find_target(str(config.get("model_type")))
    model_class, args_class = adapter.model_classes
    try:
        model = model_class(args_class.from_dict(config))
    except _MISFITS as error:
        raise AdapterError(f"target config: {_reason(error)}") from error
    model.eval()
    return adapter, model


def make_target(config: dict[str, Any]) -> LayeredTarget:
    """A target with the random weights of its class, not computed yet, from a config.json.

    Raises:
        AdapterError: no such family is served, or the config makes no sense.
    """
    adapter, model = make_model(config)
    target: LayeredTarget = adapter(model)
    return target


def load_drafter(
    directory: Path,
    target: TargetAdapter,
    cpu_weights: CpuWeights = CpuWeights.AUTO,
    *,
    expand: bool = True,
) -> DFlashDrafter:
    """A drafter of any known trainer, strictly: every tensor of the config, nothing else.

    Without ``expand`` quantised matrices stay so on a CPU too, whatever ``cpu_weights`` says.

    Raises:
        AdapterError: the checkpoint is damaged, does not fit ``target``, or is too large for what
            ``cpu_weights`` asks.
    """
    drafter, weights = _open_drafter(directory, target)
    what = f"drafter {directory}"
    _check_place(cpu_weights, what)
    chosen = _expands(cpu_weights, True) if expand else _expands_none
    report(what, take(drafter.model, weights, target.dtype, cpu_weights, expand=chosen))
    if on_cpu():
        use_own_products(drafter.model)
    return drafter


def _open_drafter(directory: Path, target: TargetAdapter) -> tuple[DFlashDrafter, Weights]:
    """A drafter with tensors that are not read yet, and their files."""
    stored = open_drafter(directory, target)
    drafter = make_drafter(stored.config, target)
    quantise_as_stored(drafter.model, stored)
    stored.weights.give(stored.tensors, drafter.model, f"drafter {directory}")
    return drafter, stored.weights


def read_drafter_config(directory: Path) -> DFlashConfig:
    """The config of a drafter whose architecture can be served; reads no weights."""
    config = read_published(directory)
    drafter_class(config)
    return parse_dflash_config(config)


def make_drafter(raw: dict[str, Any], target: TargetAdapter) -> DFlashDrafter:
    """A drafter with the random weights of its class, from a config.json in z-lab's keys.

    Raises:
        AdapterError: the config is not one of a drafter, or does not fit ``target``.
    """
    found: type[DFlashDrafter] = drafter_class(raw)
    config = parse_dflash_config(raw)
    check_pair(config, target)
    try:
        model = found.model_class(config)
    except _MISFITS as error:
        raise AdapterError(f"drafter config: {_reason(error)}") from error
    return found(config, model, target)


def check_pair(config: DFlashConfig, target: TargetSizes) -> None:
    """Refuse a drafter that was made for another target, naming both values."""
    pairs: list[tuple[str, Any, str, Any]] = [
        ("hidden_size", config.hidden_size, "hidden_size", target.hidden_size),
        ("num_target_layers", config.num_target_layers, "num_hidden_layers", target.num_layers),
        ("vocab_size", config.vocab_size, "vocab_size", target.vocab_size),
    ]
    for draft_name, draft_value, target_name, target_value in pairs:
        if draft_value != target_value:
            raise AdapterError(
                f"drafter and target do not fit: drafter {draft_name} is {draft_value}, "
                f"target {target_name} is {target_value}"
            )
    if config.mask_token_id >= target.vocab_size:
        raise AdapterError(
            f"drafter and target do not fit: drafter mask_token_id is {config.mask_token_id}, "
            f"target vocab_size is {target.vocab_size}"
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _expands(cpu_weights: CpuWeights, own_products: bool) -> Callable[[nn.Module], bool]:
    """Which quantised modules may become float32.

    Unasked, none that there is a product of our own for: it gives the same bits, and reads an
    eighth or a quarter of the memory, which decides over the speed of all but the smallest models.
    """
    if not on_cpu():
        return _expands_none
    if cpu_weights is CpuWeights.AUTO and own_products:
        return lambda module: not has_own_product(module)
    return lambda module: True


def _expands_none(module: nn.Module) -> bool:
    return False


def _check_place(cpu_weights: CpuWeights, what: str) -> None:
    if cpu_weights is CpuWeights.FLOAT32 and not on_cpu():
        raise AdapterError(
            f"{what}: --cpu-weights is float32, but the models run on a GPU, where weights stay as "
            "stored"
        )


def on_cpu() -> bool:
    """Whether this thread computes on the CPU back-end."""
    return bool(mx.default_device() == mx.Device(mx.cpu))
