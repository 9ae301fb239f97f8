"""How another drafter gets into a running engine: found and loaded while it runs."""

import asyncio
from dataclasses import replace
from pathlib import Path

from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.compose.cards import drafter_card
from dflash_serve.compose.cost_file import cost_file
from dflash_serve.compose.directories import REFUSALS, drafter_directory, target_directory
from dflash_serve.compose.drafter_test import DrafterBits
from dflash_serve.compose.drafting import Change, DrafterCard, DrafterRefused
from dflash_serve.compose.loading import new_drafter
from dflash_serve.compose.options import EngineOptions
from dflash_serve.engine.async_client import AsyncEngine


def drafter_change(options: EngineOptions, engine: AsyncEngine) -> Change:
    """What puts the drafter of a name into ``engine``."""

    async def change(name: str) -> DrafterCard:
        if options.speculation == "off":
            raise DrafterRefused("the server runs with --speculation off: it has no use for one")
        engine.require_ready()
        try:
            path, card = await asyncio.to_thread(_find, options, name)
            block = card.block_size
            wanted = _bits(options) or CpuWeights(options.cpu_weights)
            costs = cost_file(options, target_directory(options.target), path, block)
            await engine.swap(lambda runner: new_drafter(runner, path, block, wanted, costs))
        except (*REFUSALS, RuntimeError) as error:  # what MLX raises where memory does not suffice
            raise DrafterRefused(" ".join(str(error).split())) from error
        return card

    return change


def _bits(options: EngineOptions) -> DrafterBits | None:
    if not options.drafter_bits:
        return None
    return DrafterBits(options.drafter_bits, target_directory(options.target))


def _find(options: EngineOptions, name: str) -> tuple[Path | None, DrafterCard]:
    wanted = replace(options, drafter=name)
    path = drafter_directory(wanted)
    return path, drafter_card(wanted, path)
