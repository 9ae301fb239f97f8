"""What becomes of a drafter that cannot be put into a running engine."""

import asyncio
from collections.abc import Callable

import pytest

from dflash_serve.compose.drafting import DrafterRefused
from dflash_serve.compose.options import EngineOptions
from dflash_serve.compose.swapping import drafter_change
from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.engine.commands import LaneRunner, Loaded, NewDrafter


def _no_load() -> Loaded:
    raise AssertionError


class Full(AsyncEngine):
    """An engine whose device has no room for a second drafter."""

    def require_ready(self) -> Loaded:
        return Loaded(None, None)  # type: ignore[arg-type]

    async def swap(self, load: Callable[[LaneRunner], NewDrafter]) -> None:
        raise RuntimeError("[malloc] Unable to allocate\n64 bytes")


def refusal(options: EngineOptions, name: str) -> str:
    async def swap() -> None:
        await drafter_change(options, Full(_no_load))(name)

    with pytest.raises(DrafterRefused) as caught:
        asyncio.run(swap())
    return str(caught.value)


def test_a_drafter_without_room_is_refused_in_one_line() -> None:
    assert refusal(EngineOptions(), "auto") == "[malloc] Unable to allocate 64 bytes"


def test_a_name_that_leads_nowhere_is_refused() -> None:
    assert "./nowhere" in refusal(EngineOptions(), "./nowhere")


def test_a_server_without_speculation_takes_none() -> None:
    assert "--speculation off" in refusal(EngineOptions(speculation="off"), "auto")
