"""`LLM`: `AsyncLLM` for programs without asyncio, driven on an event loop of its own."""

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from dflash_serve.llm.asynchronous import AsyncLLM, Message
from dflash_serve.llm.errors import LLMError
from dflash_serve.llm.options import ChatOptions, EngineKeywords, GenerateOptions
from dflash_serve.llm.results import Answer, Piece

_T = TypeVar("_T")


class LLM:
    """A target and its drafter, loaded in this process: ``with LLM() as llm``.

    ``target`` and ``drafter`` are what ``dflash-serve --target`` and ``--drafter`` take: a
    directory or a hub id; without a target it is the embedded demo pair. May be used from several
    threads; their requests run side by side. Everything raises `LLMError`.

    Loads at once. Leaving the ``with`` block, or `close`, frees the device.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | None = None,
        drafter: str | os.PathLike[str] = "auto",
        **options: Unpack[EngineKeywords],
    ) -> None:
        background = _Background(AsyncLLM(target, drafter, **options))
        self._background = background
        # also when it is dropped, and before the interpreter ends
        self._end = weakref.finalize(self, background.close)

    def close(self) -> None:
        """End what runs and free the device. Idempotent."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @overload
    def generate(
        self, prompt: str | list[int] | tuple[int, ...], **options: Unpack[GenerateOptions]
    ) -> Answer: ...
    @overload
    def generate(
        self, prompt: list[str] | list[list[int]], **options: Unpack[GenerateOptions]
    ) -> list[Answer]: ...
    def generate(self, prompt: Any, **options: Unpack[GenerateOptions]) -> Answer | list[Answer]:
        """Continue a prompt, or several: texts, in which control tokens are read, or token ids.

        Raises:
            LLMError: naming the field, the value and the limit; or the engine fails.
        """
        return self._background.run(lambda llm: llm.generate(prompt, **options))

    @overload
    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Answer: ...
    @overload
    def chat(
        self, messages: Sequence[Sequence[Message]], **options: Unpack[ChatOptions]
    ) -> list[Answer]: ...
    def chat(self, messages: Any, **options: Unpack[ChatOptions]) -> Answer | list[Answer]:
        """Answer a conversation, or several: each a list of messages.

        Raises:
            LLMError: naming the field, the value and the limit; or the engine fails.
        """
        return self._background.run(lambda llm: llm.chat(messages, **options))

    def stream(
        self, prompt: str | list[int] | tuple[int, ...], **options: Unpack[GenerateOptions]
    ) -> Iterator[Piece]:
        """`generate` for one prompt, piece by piece. Leaving the loop early ends the request.

        Raises:
            LLMError: at once for what is refused, later if the engine fails.
        """
        return self._drive(self._background.run(_opened(lambda llm: llm.stream(prompt, **options))))

    def stream_chat(
        self, messages: Sequence[Message], **options: Unpack[ChatOptions]
    ) -> Iterator[Piece]:
        """`chat` for one conversation, piece by piece. Leaving the loop early ends the request.

        Raises:
            LLMError: at once for what is refused, later if the engine fails.
        """
        return self._drive(
            self._background.run(_opened(lambda llm: llm.stream_chat(messages, **options)))
        )

    def _drive(self, pieces: AsyncGenerator[Piece, None]) -> Iterator[Piece]:
        try:
            while (piece := self._background.run(lambda llm: _next(pieces))) is not None:
                yield piece
        finally:
            if self._end.alive:
                self._background.run(lambda llm: pieces.aclose())


async def _next(pieces: AsyncGenerator[Piece, None]) -> Piece | None:
    return await anext(pieces, None)


def _opened(
    stream: Callable[[AsyncLLM], AsyncGenerator[Piece, None]],
) -> Callable[[AsyncLLM], Coroutine[Any, Any, AsyncGenerator[Piece, None]]]:
    async def opened(llm: AsyncLLM) -> AsyncGenerator[Piece, None]:
        return stream(llm)

    return opened


_LOOK = 0.2
"""Seconds after which a wait looks for signals."""


@dataclass(frozen=True, slots=True)
class _Serving:
    """The event loop of an `AsyncLLM`, and the task that holds it open until it is cancelled."""

    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[None]

    def end(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self.loop.call_soon_threadsafe(self.task.cancel)


def _result(future: Future[_T]) -> _T:
    """Wait for ``future``, so that an interrupt is never missed.

    Python can enter an untimed wait with a signal pending, and then sleeps on it until the wait is
    over.
    """
    while True:
        try:
            return future.result(_LOOK)
        except TimeoutError:
            if future.done():
                return future.result()


class _Background:
    """Owns the thread with the event loop that one `AsyncLLM` lives on."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._closed = False
        self._begun: Future[_Serving] = Future()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="dflash-llm", daemon=True)
        self._thread.start()
        self._serving = self._begun.result()
        try:
            _result(self._ready)
        except BaseException:  # interrupted as well
            self._serving.end()
            raise

    def run(self, work: Callable[[AsyncLLM], Coroutine[Any, Any, _T]]) -> _T:
        """What ``work`` returns or raises. Interrupted here, it is cancelled there.

        Raises:
            LLMError: it is closed, or is closed meanwhile.
        """
        if self._closed:
            raise LLMError("the models are closed")
        future = asyncio.run_coroutine_threadsafe(work(self._llm), self._serving.loop)
        try:
            return _result(future)
        except CancelledError:
            raise LLMError("the models were closed before the answer was complete") from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread and everything on it."""
        self._closed = True
        self._serving.end()
        self._thread.join()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            return
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._begun.set_result(_Serving(asyncio.get_running_loop(), task))
        async with self._llm:
            self._ready.set_result(None)
            await asyncio.Event().wait()
