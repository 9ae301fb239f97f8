"""A generation as server-sent events: encoding, keep-alive comments, disconnect -> abort."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Protocol, TypeVar

from fastapi import Request
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from dflash_serve.engine.errors import EngineError
from dflash_serve.server import errors
from dflash_serve.server.settings import Settings

_GRACE_AFTER_DRAIN = 5.0
"""Seconds for the last chunks of requests that the engine aborts when draining ends."""
_KEEP_ALIVE = b": keep-alive\n\n"
_LINE_ENDS = str.maketrans({char: f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"})
"""Inside JSON strings: clients that split lines like str.splitlines see line ends in these."""

_Answer = TypeVar("_Answer")


class Running(Protocol):
    """What runs for a client and is of no use without it."""

    def close(self) -> None:
        """Abort it. Idempotent, never waits."""
        ...


class GenerationResponse(EventSourceResponse):
    """Streams ``events``; whatever ends the response also ends the generation.

    ``ping`` is sent when there has been nothing to send for a while.
    """

    def __init__(
        self,
        generation: Running,
        events: AsyncIterator[bytes],
        settings: Settings,
        *,
        ping: bytes = _KEEP_ALIVE,
    ) -> None:
        super().__init__(
            events,
            ping=settings.keep_alive,
            ping_message_factory=lambda: ping,  # type: ignore[arg-type, return-value]  # bytes do
            sep="\n",
            shutdown_grace_period=settings.drain_timeout + _GRACE_AFTER_DRAIN,
        )
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.close()


def event(data: str, name: str | None = None) -> bytes:
    """One event of one line of JSON, ready to be sent."""
    if not data.isascii():
        data = data.translate(_LINE_ENDS)
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {data}\n\n".encode()


async def openai_events(batches: AsyncIterator[Iterable[str]]) -> AsyncIterator[bytes]:
    """The JSON chunks of each batch, sent at once; an error where the engine fails; ``[DONE]``."""
    try:
        async for batch in batches:
            yield b"".join(map(event, batch))
    except EngineError as error:
        yield event(errors.from_engine(error).json_text())
    yield event("[DONE]")


async def while_connected(
    request: Request, generation: Running, answer: Awaitable[_Answer]
) -> _Answer:
    """``answer``, aborting the generation if the client leaves before it is complete."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        generation.close()

    watcher = asyncio.create_task(watch())
    try:
        return await answer
    finally:
        watcher.cancel()
        generation.close()
