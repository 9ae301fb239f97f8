"""The HTTP server in this process, on a thread of its own, around an engine of the caller's.

For measurements that need both sides of the socket: the engine itself, and the server's thread.
`PacedEngine` is one that costs next to nothing, so that the server's own work can be measured.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from dflash_serve.bench.errors import BenchError
from dflash_serve.compose.cards import model_card
from dflash_serve.compose.drafting import DrafterCard, DrafterRefused, DrafterSwitch
from dflash_serve.compose.text import load_text
from dflash_serve.engine.client import EngineClient, EngineState
from dflash_serve.engine.types import (
    EngineRequest,
    EngineStats,
    FinishReason,
    TokenChunk,
    Usage,
)
from dflash_serve.server.app import create_app
from dflash_serve.server.context import ServerContext, server_context
from dflash_serve.server.lifecycle import bind, http_config
from dflash_serve.server.settings import Settings

_T = TypeVar("_T")
_START = 180.0


def context_for(client: EngineClient, target: Path, settings: Settings) -> ServerContext:
    """What routes need to serve ``target`` through ``client``, as the real server has it."""
    model = model_card(settings, target, settings.served_model_name)
    text = load_text(settings, target, model)
    drafting = DrafterSwitch(DrafterCard(), _no_drafter)
    return server_context(client, settings, model, text, drafting)


async def _no_drafter(name: str) -> DrafterCard:
    raise DrafterRefused(f"{name}: this server measures one pair")


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: its address and its event loop."""

    port: int
    loop: asyncio.AbstractEventLoop

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run ``work`` on the server's event loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


@contextlib.contextmanager
def serving(make: Callable[[], Coroutine[Any, Any, ServerContext]]) -> Iterator[Served]:
    """Serve what ``make`` gives; it runs on the server's event loop, where engines belong."""
    started: list[tuple[uvicorn.Server, Served]] = []
    failed: list[BaseException] = []

    async def main() -> None:
        context = await make()
        listener = bind(Settings(port=0))
        server = uvicorn.Server(http_config(create_app(context)))
        started.append((server, Served(listener.getsockname()[1], asyncio.get_running_loop())))
        await server.serve(sockets=[listener])
        await context.client.close(0)

    def run() -> None:
        try:
            asyncio.run(main())
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits for the server
            failed.append(error)

    thread = threading.Thread(target=run, name="http-server")
    thread.start()
    deadline = time.perf_counter() + _START
    while not (started and started[0][0].started):
        if failed or time.perf_counter() > deadline:
            raise BenchError(f"the server did not start: {failed[0] if failed else 'no answer'}")
        time.sleep(0.01)
    try:
        yield started[0][1]
    finally:
        started[0][0].should_exit = True
        thread.join()


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
