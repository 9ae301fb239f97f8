"""The HTTP server in this process, on a thread of its own, around an engine of the caller's.

For measurements that need both sides of the socket: the engine itself, and the server's thread.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from dflash_serve.bench.errors import BenchError
from dflash_serve.compose.cards import model_card
from dflash_serve.compose.drafting import DrafterCard, DrafterRefused, DrafterSwitch
from dflash_serve.compose.text import load_text
from dflash_serve.engine.client import EngineClient
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
