"""What the composition root makes of failures further down."""

import asyncio
from collections.abc import Callable

import pytest

from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.engine.loop import Drafting, Loaded
from dflash_serve.engine.plan import Runner
from dflash_serve.server.build import drafter_change
from dflash_serve.server.drafting import DrafterRefused
from dflash_serve.server.settings import Settings


def _no_load() -> Loaded:
    raise AssertionError


class Full(AsyncEngine):
    """An engine whose device has no room for a second drafter."""

    @property
    def max_context(self) -> int:
        return 64

    async def swap(self, change: Callable[[Runner], Drafting]) -> Drafting:
        raise RuntimeError("[malloc] Unable to allocate\n64 bytes")


def test_a_drafter_without_room_is_refused_in_one_line() -> None:
    async def swap() -> None:
        await drafter_change(Settings(), Full(_no_load))("auto")

    with pytest.raises(DrafterRefused, match=r"^\[malloc\] Unable to allocate 64 bytes$"):
        asyncio.run(swap())
