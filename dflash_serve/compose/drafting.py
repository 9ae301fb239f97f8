"""Which drafter runs, and how another takes its place. Knows no checkpoints and no arrays."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dflash_serve.engine.errors import EngineError

_log = logging.getLogger("dflash_serve")


@dataclass(frozen=True, slots=True)
class DrafterCard:
    """The drafter as clients see it; without a name decoding is plain, one token per round.

    ``fingerprint`` changes with the weights, also under the same name.
    """

    name: str | None = None
    block_size: int = 1
    fingerprint: str | None = None

    @property
    def identity(self) -> str:
        """Name and weights, for records."""
        return "none" if self.name is None else f"{self.name}@{self.fingerprint}"

    def __str__(self) -> str:
        return "plain" if self.name is None else f"drafter {self.name}, block {self.block_size}"


class DrafterRefused(Exception):
    """A drafter that cannot take over; the message is one line. The old one goes on."""


class SwapRunning(Exception):
    """One swap at a time."""


Change = Callable[[str], Awaitable[DrafterCard]]
"""Puts the drafter of a name (as --drafter takes it) into the running engine.

Raises `DrafterRefused`, or `EngineUnavailable` if the engine is not running.
"""


class DrafterSwitch:
    """Owner of what the server says of its drafter. Lives on the event loop."""

    def __init__(self, now: DrafterCard, change: Change) -> None:
        self._now = now
        self._change = change
        self._running: asyncio.Task[DrafterCard] | None = None

    @property
    def now(self) -> DrafterCard:
        """The drafter that runs."""
        return self._now

    async def change_to(self, name: str) -> DrafterCard:
        """Swap, and return the new card. A caller who goes away does not stop a swap half-way.

        Raises:
            SwapRunning: another swap has not ended.
            DrafterRefused: the drafter cannot be used.
            EngineUnavailable: the engine is not running.
        """
        if self._running is not None and not self._running.done():
            raise SwapRunning("another drafter is being loaded: try again when it runs")
        self._running = asyncio.create_task(self._take(name))
        return await asyncio.shield(self._running)

    async def reload(self, name: str) -> None:
        """`change_to` for whoever cannot be answered: the log says how it went."""
        try:
            await self.change_to(name)
        except (DrafterRefused, SwapRunning, EngineError) as error:
            _log.error("the drafter stays as it is: %s", error)

    async def _take(self, name: str) -> DrafterCard:
        self._now = await self._change(name)
        _log.info("swapped: now %s", self._now)
        return self._now
