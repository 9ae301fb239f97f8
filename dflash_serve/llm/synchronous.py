"""`LLM`: `AsyncLLM` for programs without asyncio, driven on an event loop of its own."""

import asyncio
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


@dataclass(frozen=True, slots=True)
class _Running:
    """The event loop of a started `AsyncLLM`, and what tells it to end."""

    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event


class _Background:
    """Owns the thread with the event loop that one `AsyncLLM` lives on."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._ready: Future[_Running] = Future()
        self._thread = threading.Thread(target=self._main, name="dflash-llm", daemon=True)
        self._thread.start()
        self._running: _Running | None = self._ready.result()

    def run(self, work: Callable[[AsyncLLM], Coroutine[Any, Any, _T]]) -> _T:
        """What ``work`` returns or raises. Interrupted here, it is cancelled there.

        Raises:
            LLMError: it is closed, or is closed meanwhile.
        """
        running = self._running
        if running is None:
            raise LLMError("the models are closed")
        future = asyncio.run_coroutine_threadsafe(work(self._llm), running.loop)
        try:
            return future.result()
        except CancelledError:
            raise LLMError("the models were closed before the answer was complete") from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread and everything on it."""
        running, self._running = self._running, None
        if running is not None:
            running.loop.call_soon_threadsafe(running.stop.set)
            self._thread.join()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        async with self._llm:
            running = _Running(asyncio.get_running_loop(), asyncio.Event())
            self._ready.set_result(running)
            await running.stop.wait()
