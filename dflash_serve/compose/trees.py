"""Trees of drafts as the options ask for them: kinds of round, and the drafter of branches."""

from dflash_serve.adapters.base import AdapterError, FillingDrafter, TargetAdapter
from dflash_serve.adapters.checkpoint import read_config, resolve
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import load_drafter
from dflash_serve.compose.directories import DEMO
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.engine.cache.stores import ModelStore

_AUTO = (0, 8, 16, 32)
"""Chains, and trees of so many nodes: few kinds, because each is tried and traced."""


def tree_kinds(options: EngineOptions, target: TargetAdapter) -> tuple[int, ...]:
    """The kinds of round to choose among, as `EngineConfig.tree_nodes`.

    Raises:
        OptionsError: trees are asked for, and a layer of the target cannot verify them.
    """
    asked = options.tree
    if asked == "default":
        asked = "off" if options.second_drafter == "none" else "auto"
    if asked == "off" or options.speculation == "off" or options.drafter == "none":
        return (0,)
    if ModelStore(target.cache_specs).recurs:
        raise OptionsError(
            f"--tree is {asked}, but the target has recurrent layers, whose state follows one "
            "path: use --tree off"
        )
    return _AUTO if asked == "auto" else (int(asked),)


def load_second(options: EngineOptions, target: TargetAdapter, block: int) -> FillingDrafter | None:
    """The drafter that goes on behind the first one's likely breaks, None without one.

    Raises:
        AdapterError: its checkpoint is damaged, does not fit, or is not a VP-drafter's.
        OptionsError: none is known for the target, or its blocks are shorter than ``block``.
    """
    if options.second_drafter == "none" or options.speculation == "off" or block == 1:
        return None
    if options.second_drafter == "auto" and options.target is not None:
        raise OptionsError(
            f"--second-drafter auto: no VP-drafter is known for {options.target}, give its path"
        )
    auto = options.second_drafter == "auto"
    path = DEMO / "drafter-vp" if auto else resolve(options.second_drafter)
    mode = (read_config(path).get("dflash_config") or {}).get("training_mode")
    if mode != "vp_drafter":
        raise AdapterError(
            f"second drafter {path}: training_mode is {mode!r}, but only a VP-drafter "
            "('vp_drafter') can go on from a visible prefix"
        )
    drafter = load_drafter(path, target)
    _check_second(drafter, block)
    return drafter


def _check_second(drafter: DFlashDrafter, block: int) -> None:
    """Refuse what cannot fill blocks that stand side by side."""
    config = drafter.config
    if config.block_size < block:
        raise OptionsError(
            f"--block-size is {block}, but the second drafter was trained with {config.block_size}"
        )
    if config.shift or config.conv_kernel_size:
        raise AdapterError("second drafter: only a DFlash v1 network can fill blocks side by side")
