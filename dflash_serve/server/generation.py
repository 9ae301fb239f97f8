"""One HTTP request's choices: engine chunks in, deltas out, one queue, one log line.

Knows nothing of JSON or sockets. Streaming and whole answers both read the same deltas.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from dflash_serve.compose.drafting import DrafterSwitch
from dflash_serve.engine.client import EngineClient
from dflash_serve.engine.errors import EngineError, EngineUnavailable
from dflash_serve.engine.types import Usage
from dflash_serve.server import usage
from dflash_serve.server.choice import Choice, Outbox
from dflash_serve.server.deltas import Delta
from dflash_serve.server.protocol.common import MetaInfo
from dflash_serve.server.recording import Finished, Recorder

_log = logging.getLogger("dflash_serve.request")


class Generation:
    """The choices of one request, running side by side in the engine.

    ``start`` submits them, ``deltas`` gives their text as it comes, ``close`` aborts what still
    runs. Each choice is read by a task of its own, which keeps consuming after a disconnect until
    the terminal chunk arrives.
    """

    def __init__(
        self,
        name: str,
        client: EngineClient,
        choices: Sequence[Choice],
        drafting: DrafterSwitch,
        recorder: Recorder | None = None,
    ) -> None:
        self._name = name
        self._client = client
        self._drafting = drafting
        self._recorder = recorder
        self._began_with = drafting.now
        self._choices = choices
        self._tasks: list[asyncio.Task[None]] = []
        self._running = len(choices)  # tasks whose end was not yet seen
        self._queue: Outbox = asyncio.Queue()

    @property
    def size(self) -> int:
        """How many choices there are."""
        return len(self._choices)

    @property
    def prompt_tokens(self) -> int:
        return len(self._choices[0].request.prompt)

    @property
    def completion_tokens(self) -> int:
        """Generated so far, by all choices."""
        return sum(choice.final_usage().completion_tokens for choice in self._choices)

    def start(self) -> None:
        """Submit every choice, or none.

        Raises:
            EngineError: the engine refuses one; the others are aborted.
        """
        sources = []
        try:
            for choice in self._choices:
                sources.append(self._client.submit(choice.request))
        except EngineError:
            self.close()
            raise
        for choice, source in zip(self._choices, sources, strict=True):
            task = asyncio.create_task(choice.run(source, self._client, self._queue))
            task.add_done_callback(self._task_done)
            self._tasks.append(task)

    async def deltas(self) -> AsyncIterator[Delta]:
        """All deltas of all choices; each choice ends with an `EndDelta`.

        Raises:
            EngineError: the engine failed or shut down before all choices were done.
        """
        async for batch in self.batches():
            for delta in batch:
                yield delta

    async def batches(self) -> AsyncIterator[list[Delta]]:
        """`deltas`, all that have come since the last batch at once.

        Raises:
            EngineError: the engine failed or shut down before all choices were done.
        """
        try:
            running = len(self._tasks)
            while running:
                batch: list[Delta] = []
                failure: EngineError | None = None
                item = await self._queue.get()
                while True:
                    if isinstance(item, EngineError):
                        failure = item
                        break
                    if item is None:
                        running -= 1
                    else:
                        batch += item
                    if self._queue.empty():
                        break
                    item = self._queue.get_nowait()
                if batch:
                    yield batch
                if failure is not None:
                    raise failure
        finally:
            self.close()

    def close(self) -> None:
        """Abort the choices that still run. Idempotent, never waits."""
        for choice in self._choices:
            if choice.usage is None:
                self._client.abort(choice.request.id)

    async def ended(self) -> None:
        """Wait until the engine has sent its last chunk of every choice, closed or not."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def meta_info(self, usages: Sequence[Usage]) -> MetaInfo:
        """How speculation went, with the drafter that runs now."""
        return usage.meta_info(usages, self._drafting.now.name)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._queue.put_nowait(_error_of(task))
        self._running -= 1
        if not self._running:
            self._log_end()
            self._record()

    def _record(self) -> None:
        """Keep the choices that ran to their end; the others are nobody's finished answer.

        Tokens that rules or a grammar changed are not the model's own choice, which records are of.
        """
        if self._recorder is None:
            return
        drafters = dict.fromkeys((self._began_with.identity, self._drafting.now.identity))
        for choice in self._choices:
            request = choice.request
            forced = not request.rules.neutral or request.grammar is not None
            if forced or choice.finish not in ("stop", "length") or choice.usage is None:
                continue
            self._recorder.add(
                Finished(request, choice.tokens, choice.finish, choice.usage, tuple(drafters))
            )

    def _log_end(self) -> None:
        usages = [choice.final_usage() for choice in self._choices]
        meta = self.meta_info(usages)
        _log.info(
            "%s prompt=%d completion=%d rounds=%d tokens_per_round=%.2f ttft=%.3fs "
            "tokens_per_second=%.1f finish=%s",
            self._name,
            meta.prompt_tokens,
            meta.completion_tokens,
            meta.spec_verify_ct,
            meta.spec_accept_length,
            meta.ttft,
            meta.tokens_per_second,
            ",".join(choice.finish for choice in self._choices),
        )


def _error_of(task: asyncio.Task[None]) -> EngineError | None:
    if task.cancelled():
        return EngineUnavailable("The answer ends here: the server is shutting down.")
    error = task.exception()
    if error is None or isinstance(error, EngineError):
        return error
    _log.error("a request failed", exc_info=error)
    return EngineError("The server had an error while processing the request.")
