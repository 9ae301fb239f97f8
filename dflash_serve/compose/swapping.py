"""How another drafter gets into a running engine: found here, loaded on the engine's thread."""

import asyncio
from dataclasses import replace
from pathlib import Path

from dflash_serve.compose.cards import drafter_card
from dflash_serve.compose.directories import REFUSALS, drafter_directory
from dflash_serve.compose.drafting import Change, DrafterCard, DrafterRefused
from dflash_serve.compose.loading import swap_in
from dflash_serve.compose.options import EngineOptions
from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.engine.config import EngineConfig


def drafter_change(options: EngineOptions, engine: AsyncEngine) -> Change:
    """What puts the drafter of a name into ``engine``."""

    async def change(name: str) -> DrafterCard:
        if options.speculation == "off":
            raise DrafterRefused("the server runs with --speculation off: it has no use for one")
        try:
            max_context = engine.max_context  # raises while the engine is loading
            path, card = await asyncio.to_thread(_find, options, name)
            config = EngineConfig(
                max_batch=options.max_batch,
                max_context=max_context,
                block_size=card.block_size,
                memory_limit=options.memory_limit,
            )
            await engine.swap(lambda runner: swap_in(runner, path, config))
        except (*REFUSALS, RuntimeError) as error:  # what MLX raises where memory does not suffice
            raise DrafterRefused(" ".join(str(error).split())) from error
        return card

    return change


def _find(options: EngineOptions, name: str) -> tuple[Path | None, DrafterCard]:
    wanted = replace(options, drafter=name)
    path = drafter_directory(wanted)
    return path, drafter_card(wanted, path)
