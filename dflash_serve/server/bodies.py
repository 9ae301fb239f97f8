"""A request's body, handled off the event loop: small ones on a thread, large ones in a worker.

A thread holds the interpreter lock while it parses JSON and renders templates, so that every stream
would wait for a large body; a worker is a process.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from dflash_serve.engine.errors import EngineUnavailable
from dflash_serve.server.context import ServerContext
from dflash_serve.server.handling import Find, Handler, Handling, nothing_kept
from dflash_serve.server.worker import Job

ON_A_THREAD = 32 * 1024
"""Bytes of the largest body that is handled in this process: some milliseconds of the lock."""

_Result = TypeVar("_Result")


async def handle(
    request: Request,
    handler: Handler[_Result],
    context: ServerContext,
    find: Find = nothing_kept,
) -> _Result:
    """What ``handler`` makes of the request's body. ``find`` is called on other threads.

    Raises:
        ApiError: the body is refused, or too many large ones wait.
        ClientDisconnect: the client left before its large body was handled.
    """
    workers = context.workers
    declared = request.headers.get("content-length", "0")
    if workers is not None and declared.isdigit() and int(declared) > ON_A_THREAD:
        workers.check_free()  # before the body is read
    body = await request.body()
    if workers is None or len(body) <= ON_A_THREAD:
        handling = Handling(context.facts, _room(context), find)
        return await run_in_threadpool(handler, body, handling)
    work = workers.run(Job(handler, body, _room(context)), find)
    return await _while_connected(request, work)


def _room(context: ServerContext) -> int | None:
    try:
        return context.client.max_context
    except EngineUnavailable:
        return None


async def _while_connected(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    task = asyncio.create_task(work)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await task
    except asyncio.CancelledError:
        if watcher.done():
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
        task.cancel()
