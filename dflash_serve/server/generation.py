"""One HTTP request's choices: engine chunks in, text deltas out, one queue, one log line.

Knows nothing of JSON or sockets. Streaming and whole answers both read ``Generation.deltas``.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from dflash_serve.engine.client import EngineClient
from dflash_serve.engine.errors import EngineError, EngineUnavailable
from dflash_serve.engine.types import (
    EngineRequest,
    FinishReason,
    TokenChunk,
    Usage,
)
from dflash_serve.server import translate
from dflash_serve.server.drafting import DrafterSwitch
from dflash_serve.server.protocol.chat import FinishReason as WireFinish
from dflash_serve.server.protocol.common import MetaInfo
from dflash_serve.server.recording import Finished, Recorder
from dflash_serve.text.stream import TextStream

_log = logging.getLogger("dflash_serve.request")


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """More text of one choice; its last delta has ``finish`` and ``usage``, and no text."""

    index: int
    text: str = ""
    finish: WireFinish | None = None
    usage: Usage | None = None


class Generation:
    """The choices of one request, running side by side in the engine.

    ``start`` submits them, ``deltas`` gives their text as it comes, ``close`` aborts what still
    runs. Each choice is read by a task of its own that also outlives a reader who went away, to
    take the engine's last word on what the choice cost.
    """

    def __init__(
        self,
        name: str,
        client: EngineClient,
        requests: Sequence[EngineRequest],
        texts: Sequence[TextStream],
        drafting: DrafterSwitch,
        recorder: Recorder | None = None,
    ) -> None:
        self._name = name
        self._client = client
        self._drafting = drafting
        self._recorder = recorder
        self._began_with = drafting.now
        self._choices = [
            _Choice(index, request, text)
            for index, (request, text) in enumerate(zip(requests, texts, strict=True))
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._running = len(self._choices)  # tasks whose end was not yet seen
        self._queue: asyncio.Queue[ChoiceDelta | EngineError | None] = asyncio.Queue()

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

    async def deltas(self) -> AsyncIterator[ChoiceDelta]:
        """All deltas of all choices; each choice ends with one that has ``finish``.

        Raises:
            EngineError: the engine failed or shut down before all choices were done.
        """
        try:
            running = len(self._tasks)
            while running:
                item = await self._queue.get()
                if isinstance(item, EngineError):
                    raise item
                if item is None:
                    running -= 1
                else:
                    yield item
        finally:
            self.close()

    def close(self) -> None:
        """Abort the choices that still run. Idempotent, never waits."""
        for choice in self._choices:
            if choice.usage is None:
                self._client.abort(choice.request.id)

    def meta_info(self, usages: Sequence[Usage]) -> MetaInfo:
        """How speculation went, with the drafter that runs now."""
        return translate.meta_info(usages, self._drafting.now.name)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._queue.put_nowait(_error_of(task))
        self._running -= 1
        if not self._running:
            self._log_end()
            self._record()

    def _record(self) -> None:
        """Keep the choices that ran to their end; the others are nobody's finished answer."""
        if self._recorder is None:
            return
        drafters = dict.fromkeys((self._began_with.identity, self._drafting.now.identity))
        for choice in self._choices:
            if choice.finish in ("stop", "length") and choice.usage is not None:
                self._recorder.add(
                    Finished(
                        choice.request,
                        choice.tokens,
                        choice.finish,
                        choice.usage,
                        tuple(drafters),
                    )
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
        return EngineUnavailable("the server is shutting down")
    error = task.exception()
    if error is None or isinstance(error, EngineError):
        return error
    _log.error("a request failed", exc_info=error)
    return EngineError("the server had an error while processing the request")


class _Choice:
    """One choice while it runs. Owned by its task; read by others when that is done."""

    def __init__(self, index: int, request: EngineRequest, text: TextStream) -> None:
        self.request = request
        self.finish = "error"
        self.usage: Usage | None = None
        self._index = index
        self._text = text
        self._tokens: list[int] = []

    async def run(
        self,
        source: AsyncIterator[TokenChunk],
        client: EngineClient,
        out: asyncio.Queue[ChoiceDelta | EngineError | None],
    ) -> None:
        """Read ``source`` to its end, putting deltas on ``out``.

        Raises:
            EngineError: the choice ended by a failure or an abort that was not its stop string's.
        """
        last: TokenChunk | None = None
        async for last in source:
            text = self._take(last)
            if text:
                out.put_nowait(ChoiceDelta(self._index, text))
            if self._text.stopped and last.finish is None:
                client.abort(self.request.id)
        if last is None or last.finish is None:
            raise EngineError("the engine ended a request without a last chunk")
        out.put_nowait(self._end(last, last.finish))

    @property
    def tokens(self) -> tuple[int, ...]:
        """What was generated for the text, the stop token or a stop string's last one included."""
        return tuple(self._tokens)

    def final_usage(self) -> Usage:
        """What the engine said it cost, or what is known if it never said."""
        known = Usage(prompt_tokens=len(self.request.prompt), completion_tokens=self._text.tokens)
        return self.usage or known

    def _take(self, chunk: TokenChunk) -> str:
        before = self._text.tokens
        text = self._text.push(chunk.tokens)
        self._tokens += chunk.tokens[: self._text.tokens - before]
        if chunk.finish in (FinishReason.STOP, FinishReason.LENGTH):
            text += self._text.flush()
        return text

    def _end(self, chunk: TokenChunk, finish: FinishReason) -> ChoiceDelta:
        self.usage = chunk.usage or self.final_usage()
        if self._text.stopped:
            self.finish = "stop"
            self.usage = translate.truncated(self.usage, self._text.tokens)
            return ChoiceDelta(self._index, finish="stop", usage=self.usage)
        self.finish = finish.value
        if finish is FinishReason.STOP:
            self._tokens += () if chunk.stop_token is None else (chunk.stop_token,)
            return ChoiceDelta(self._index, finish="stop", usage=self.usage)
        if finish is FinishReason.LENGTH:
            return ChoiceDelta(self._index, finish="length", usage=self.usage)
        if finish is FinishReason.ABORTED:
            raise EngineUnavailable("the request was aborted: the server is shutting down")
        raise EngineError(chunk.error or "the engine failed")
