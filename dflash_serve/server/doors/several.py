"""Generations of one HTTP request, read as one. Knows nothing of wire types or sockets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from dflash_serve.engine.types import Usage
from dflash_serve.server.ask import Ask
from dflash_serve.server.begin import begin
from dflash_serve.server.context import ModelContext
from dflash_serve.server.deltas import Delta
from dflash_serve.server.generation import Generation
from dflash_serve.server.protocol.common import MetaInfo

_Batch = list[Delta]
_Queue = asyncio.Queue[_Batch | BaseException | None]
"""Batches of all, what one failed with, or None where one has ended."""


async def begin_all(asks: Sequence[Ask], context: ModelContext, name: str) -> "Several":
    """Begin every one, or none. They share one turn in the engine's queue.

    Raises:
        ApiError: naming the field, the value and the limit.
        EngineError: the engine refuses one of them.
    """
    if len(asks) == 1:
        return Several([await begin(asks[0], context, name)])
    begun: list[Generation] = []
    try:
        for place, ask in enumerate(asks):
            begun.append(await begin(ask, context, f"{name}-{place}", group=name))
    except BaseException:  # the request was cancelled: nothing of it may run on
        Several(begun).close()
        raise
    return Several(begun)


class Several:
    """Choices are numbered through: those of the first generation, those of the second, ..."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self._generations = generations

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts together."""
        return sum(part.prompt_tokens for part in self._generations)

    @property
    def completion_tokens(self) -> int:
        """Generated so far, by all choices."""
        return sum(part.completion_tokens for part in self._generations)

    async def batches(self) -> AsyncIterator[_Batch]:
        """The deltas of all, as they come.

        Raises:
            EngineError: the engine failed or shut down before all choices were done.
        """
        if len(self._generations) == 1:
            async for batch in self._generations[0].batches():
                yield batch
            return
        queue: _Queue = asyncio.Queue()
        first, tasks = 0, []
        for part in self._generations:
            task = asyncio.create_task(_pump(part, first, queue))
            task.add_done_callback(lambda ended: queue.put_nowait(_failure(ended)))
            tasks.append(task)
            first += part.size
        try:
            running = len(tasks)
            while running:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    running -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            self.close()

    def close(self) -> None:
        """Abort what still runs. Idempotent, never waits."""
        for part in self._generations:
            part.close()

    def meta_info(self, usages: Sequence[Usage]) -> MetaInfo:
        """How speculation went, with the drafter that runs now."""
        return self._generations[0].meta_info(usages)


async def _pump(part: Generation, first: int, queue: _Queue) -> None:
    async for batch in part.batches():
        queue.put_nowait([replace(delta, index=first + delta.index) for delta in batch])


def _failure(ended: asyncio.Task[None]) -> BaseException | None:
    return None if ended.cancelled() else ended.exception()
