"""Trees of drafts as the options ask for them: kinds of round, and the drafter of branches."""

from pathlib import Path

from dflash_serve.adapters.base import AdapterError, FillingDrafter, TargetAdapter
from dflash_serve.adapters.checkpoint import read_config, resolve
from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.loading import (
    check_files,
    load_drafter,
    make_target,
    read_drafter_config,
)
from dflash_serve.compose.directories import DEMO
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.engine.cache.stores import ModelStore

_AUTO = (0, 8, 16, 32)
"""Chains, and trees of so many nodes: few kinds, because each is tried and traced."""


def check_trees(options: EngineOptions, target: Path, block: int) -> None:
    """Refuse trees and a second drafter that cannot be had, by configs and headers alone.

    Raises:
        AdapterError: the second drafter is damaged, does not fit, or is not a VP-drafter.
        OptionsError: none is known for the target, its blocks are shorter than ``block``, or a
            layer of the target cannot verify trees.
    """
    second = second_directory(options, block)
    if second is not None:
        check_files(target, second)
    if _asked(options) != "off":
        tree_kinds(options, make_target(read_config(target)))


def tree_kinds(options: EngineOptions, target: TargetAdapter) -> tuple[int, ...]:
    """The kinds of round to choose among, as `EngineConfig.tree_nodes`.

    Raises:
        OptionsError: trees are asked for, and a layer of the target cannot verify them.
    """
    asked = _asked(options)
    if asked == "off":
        return (0,)
    if ModelStore(target.cache_specs).recurs:
        raise OptionsError(
            f"--tree is {asked}, but the target has recurrent layers, whose state follows one "
            "path: use --tree off"
        )
    return _AUTO if asked == "auto" else (int(asked),)


def _asked(options: EngineOptions) -> str:
    """``off``, ``auto`` or a number."""
    if options.speculation == "off" or options.drafter == "none":
        return "off"
    if options.tree == "default":
        return "off" if options.second_drafter == "none" else "auto"
    return options.tree


def second_directory(options: EngineOptions, block: int) -> Path | None:
    """Where the second drafter is, None without one; ``block`` is that of rounds.

    Raises:
        AdapterError: the name leads nowhere, or to what is not a VP-drafter.
        OptionsError: none is known for the target, or its blocks are shorter.
    """
    if options.second_drafter == "none" or _asked(options) == "off":
        return None
    if options.second_drafter != "auto":
        path = resolve(options.second_drafter)
    elif options.target is None:
        path = DEMO / "drafter-vp"
    else:
        raise OptionsError(
            f"--second-drafter is auto, but no VP-drafter is known for {options.target}: give its "
            "path"
        )
    _check_second(path, block)
    return path


def _check_second(path: Path, block: int) -> None:
    """Refuse what cannot fill blocks that stand side by side."""
    config = read_drafter_config(path)
    if not config.prefix_weight_base:
        raise AdapterError(
            f"second drafter {path}: its training_mode is not vp_drafter, but only a VP-drafter "
            "can go on from a visible prefix"
        )
    if config.block_size < block:
        raise OptionsError(
            f"--block-size is {block}, but the second drafter was trained with {config.block_size}"
        )
    if config.shift or config.conv_kernel_size:
        raise AdapterError(
            f"second drafter {path}: only a DFlash v1 network can fill blocks side by side"
        )


def load_second(options: EngineOptions, target: TargetAdapter, block: int) -> FillingDrafter | None:
    """The drafter that goes on behind the first one's likely breaks, None without one.

    Raises:
        AdapterError: as `second_directory`, or its checkpoint is damaged or does not fit.
        OptionsError: as `second_directory`.
    """
    path = second_directory(options, block)
    if path is None:
        return None
    return load_drafter(path, target, CpuWeights(options.cpu_weights))
