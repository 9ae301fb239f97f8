"""`PacedEngine`: an engine client that commits tokens at a fixed pace, all rows in one step.

It costs next to nothing itself, so that what the server does with its chunks can be measured.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from dflash_serve.engine.client import EngineState
from dflash_serve.engine.types import (
    EngineRequest,
    EngineStats,
    FinishReason,
    TokenChunk,
    Usage,
)


class PacedEngine:
    """Every request gets ``chunks`` chunks of ``tokens`` tokens, one every ``pace`` seconds.

    Like the real engine it hands the chunks of one step to all requests in one call.
    """

    state = EngineState.READY
    max_context = 1 << 20

    def __init__(self, chunks: int, tokens: int, pace: float) -> None:
        self._chunks = chunks
        self._tokens = tokens
        self._pace = pace
        self._said: Sequence[int] = (0,)
        self._live: dict[str, tuple[asyncio.Queue[TokenChunk], int]] = {}
        self._stepping = False

    def say(self, tokens: Sequence[int]) -> None:
        """What every answer repeats."""
        self._said = tokens

    def check_room(self) -> None:
        """There is always room."""

    def submit(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        queue: asyncio.Queue[TokenChunk] = asyncio.Queue()
        self._live[request.id] = (queue, 0)
        if not self._stepping:
            self._stepping = True
            asyncio.get_running_loop().call_later(self._pace, self._step)
        return _read(queue)

    def abort(self, request_id: str) -> None:
        live = self._live.pop(request_id, None)
        if live is not None:
            live[0].put_nowait(TokenChunk(request_id, (), FinishReason.ABORTED, Usage()))

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self._live))

    async def close(self, grace: float) -> None:
        for name in list(self._live):
            self.abort(name)

    def _step(self) -> None:
        for name, (queue, done) in list(self._live.items()):
            start = done * self._tokens
            tokens = tuple(self._said[(start + i) % len(self._said)] for i in range(self._tokens))
            last = done + 1 == self._chunks
            if last:
                usage = Usage(1, self._chunks * self._tokens, rounds=self._chunks)
                queue.put_nowait(TokenChunk(name, tokens, FinishReason.LENGTH, usage))
                del self._live[name]
            else:
                queue.put_nowait(TokenChunk(name, tokens))
                self._live[name] = (queue, done + 1)
        self._stepping = bool(self._live)
        if self._stepping:
            asyncio.get_running_loop().call_later(self._pace, self._step)


async def _read(queue: asyncio.Queue[TokenChunk]) -> AsyncIterator[TokenChunk]:
    while True:
        chunk = await queue.get()
        yield chunk
        if chunk.finish is not None:
            return
