"""What the server knows of inference: one protocol. Tests put a scripted engine behind it."""

from collections.abc import AsyncIterator
from enum import Enum
from typing import Protocol

from dflash_serve.engine.types import EngineRequest, EngineStats, TokenChunk


class EngineState(Enum):
    """Where an engine is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class EngineClient(Protocol):
    """The asyncio side of an engine."""

    @property
    def state(self) -> EngineState:
        """Requests are taken in ``READY`` only."""
        ...

    @property
    def max_context(self) -> int:
        """Largest number of tokens (prompt and completion) of one request."""
        ...

    def check_room(self) -> None:
        """Whether a request could be queued now, before any work on it. Never blocks.

        Raises:
            QueueFull: the bounded queue has no room.
            EngineUnavailable: the engine is not running.
        """
        ...

    def submit(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """Queue ``request`` now and return its chunks; the last one has ``finish`` set.

        Called on the event loop. Closing the iterator early aborts the request.

        Raises:
            RequestError: the request can never be served.
            QueueFull: the bounded queue has no room.
            EngineUnavailable: the engine is not running.
        """
        ...

    def abort(self, request_id: str) -> None:
        """End a request within a round. Unknown or finished ids are ignored."""
        ...

    def stats(self) -> EngineStats:
        """Counters as of the last step. Never blocks."""
        ...

    async def close(self, grace: float) -> None:
        """Stop taking requests, let running ones finish for ``grace`` seconds, abort the rest."""
        ...
