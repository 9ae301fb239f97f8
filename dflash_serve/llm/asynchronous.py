"""`AsyncLLM`: a pair of models and its engine in this process, for asyncio programs."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, overload

from starlette.concurrency import run_in_threadpool

from dflash_serve.compose.cards import drafter_card, model_card
from dflash_serve.compose.directories import checkpoints
from dflash_serve.compose.drafting import DrafterSwitch
from dflash_serve.compose.loading import load, release
from dflash_serve.compose.options import EngineOptions
from dflash_serve.compose.swapping import drafter_change
from dflash_serve.compose.text import load_text
from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.llm.asks import chat_asks, generate_asks, place
from dflash_serve.llm.errors import LLMError, refused_models, refused_requests
from dflash_serve.llm.options import ChatOptions, EngineKeywords, GenerateOptions, engine_options
from dflash_serve.llm.results import Answer, AnswerReader, Choice, Piece
from dflash_serve.server.ask import Ask
from dflash_serve.server.begin import begin
from dflash_serve.server.context import ModelContext
from dflash_serve.server.generation import Generation
from dflash_serve.server.grammars import Grammars

_BEGINNING = 2
"""Requests that are encoded and whose grammars are compiled at once: as many as grammars have
threads, so that none uses up its time limit while it waits for another's."""
_POLL = 0.01

Message = Mapping[str, Any]
"""One message of a conversation, as OpenAI's interface has it: ``role``, ``content``, ..."""


class AsyncLLM:
    """A target and its drafter, loaded in this process: ``async with AsyncLLM() as llm``.

    ``target`` and ``drafter`` are what ``dflash-serve --target`` and ``--drafter`` take: a
    directory or a hub id; without a target it is the embedded demo pair. Requests run side by
    side in one engine; beyond its queue they wait here. Everything raises `LLMError`.

    Lives on the event loop that starts it.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | None = None,
        drafter: str | os.PathLike[str] = "auto",
        **options: Unpack[EngineKeywords],
    ) -> None:
        self._options = engine_options(target, drafter, options)
        self._engine: AsyncEngine | None = None
        self._context: ModelContext | None = None
        self._room = asyncio.Semaphore(self._options.max_batch + self._options.max_queue)
        self._beginning = asyncio.Semaphore(_BEGINNING)
        self._numbers = itertools.count()

    async def start(self) -> None:
        """Load the models. `close` frees them.

        Raises:
            LLMError: they cannot be found or loaded, or an option does not fit them.
        """
        if self._engine is not None:
            raise LLMError("the models are loaded already")
        try:
            with refused_models():
                await self._load()
        except BaseException:
            release()
            raise

    async def _load(self) -> None:
        target, drafter = await run_in_threadpool(checkpoints, self._options)
        engine = AsyncEngine(lambda: load(self._options, target, drafter))
        context = await run_in_threadpool(_context, self._options, engine, target, drafter)
        self._engine = engine
        engine.start()
        try:
            await engine.loaded()
        except BaseException:  # cancelled as well: the engine's thread must not stay
            self._engine = None
            context.grammars.close()
            await engine.close(0)
            raise
        self._context = context

    async def close(self) -> None:
        """End what runs and free the device. Idempotent."""
        engine, context = self._engine, self._context
        self._engine = self._context = None
        if engine is None or context is None:
            return
        context.grammars.close()
        await engine.close(0)
        while not engine.ended:  # a step may be under way
            await asyncio.sleep(_POLL)
        del engine, context
        release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @overload
    async def generate(
        self, prompt: str | list[int] | tuple[int, ...], **options: Unpack[GenerateOptions]
    ) -> Answer: ...
    @overload
    async def generate(
        self, prompt: list[str] | list[list[int]], **options: Unpack[GenerateOptions]
    ) -> list[Answer]: ...
    async def generate(
        self,
        prompt: str | list[int] | tuple[int, ...] | list[str] | list[list[int]],
        **options: Unpack[GenerateOptions],
    ) -> Answer | list[Answer]:
        """Continue a prompt, or several: texts, in which control tokens are read, or token ids.

        Raises:
            LLMError: naming the field, the value and the limit; or the engine fails.
        """
        one = _is_one_prompt(prompt)
        prompts, facts = [prompt] if one else prompt, self._ready().facts
        asks = await run_in_threadpool(generate_asks, prompts, options, facts)
        answers = await self._all(asks)
        return answers[0] if one else answers

    @overload
    async def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Answer: ...
    @overload
    async def chat(
        self, messages: Sequence[Sequence[Message]], **options: Unpack[ChatOptions]
    ) -> list[Answer]: ...
    async def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        **options: Unpack[ChatOptions],
    ) -> Answer | list[Answer]:
        """Answer a conversation, or several: each a list of messages.

        Raises:
            LLMError: naming the field, the value and the limit; or the engine fails.
        """
        one = _is_one_conversation(messages)
        chats, facts = [messages] if one else messages, self._ready().facts
        asks = await run_in_threadpool(chat_asks, chats, options, facts)
        answers = await self._all(asks)
        return answers[0] if one else answers

    def stream(
        self, prompt: str | list[int] | tuple[int, ...], **options: Unpack[GenerateOptions]
    ) -> AsyncGenerator[Piece, None]:
        """`generate` for one prompt, piece by piece. Closing the generator ends the request.

        Raises:
            LLMError: at once for what is refused, later if the engine fails.
        """
        return self._pieces(generate_asks([prompt], options, self._ready().facts)[0])

    def stream_chat(
        self, messages: Sequence[Message], **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[Piece, None]:
        """`chat` for one conversation, piece by piece. Closing the generator ends the request.

        Raises:
            LLMError: at once for what is refused, later if the engine fails.
        """
        return self._pieces(chat_asks([messages], options, self._ready().facts)[0])

    def _ready(self) -> ModelContext:
        if self._context is None:
            raise LLMError("the models are not loaded: they are closed, or were never started")
        return self._context

    async def _all(self, asks: Sequence[Ask]) -> list[Answer]:
        """All side by side; when one fails, the others end."""
        tasks = [
            asyncio.create_task(self._whole(ask, place(at, len(asks))))
            for at, ask in enumerate(asks)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _whole(self, ask: Ask, where: str) -> Answer:
        choices: dict[int, Choice] = {}
        async with contextlib.aclosing(self._pieces(ask, where)) as pieces:
            async for piece in pieces:
                if piece.choice is not None:
                    choices[piece.index] = piece.choice
        return Answer(tuple(choices[index] for index in range(ask.n)))

    async def _pieces(self, ask: Ask, where: str = "") -> AsyncGenerator[Piece, None]:
        reader = AnswerReader(ask.n, named=ask.tools.only is not None)
        generation = await self._begin(ask, where)
        try:
            with refused_requests(where):
                async for delta in generation.deltas():
                    yield reader.piece(delta)
        finally:
            generation.close()
            await generation.ended()  # only then its place in the engine's queue is free
            self._room.release()

    async def _begin(self, ask: Ask, where: str) -> Generation:
        """Submit ``ask`` when there is room for it; its reader gives the place back."""
        await self._room.acquire()
        try:
            with refused_requests(where):
                async with self._beginning:
                    return await begin(ask, self._ready(), f"llm-{next(self._numbers)}")
        except BaseException:
            self._room.release()
            raise


def _is_one_prompt(prompt: Any) -> bool:
    """Whether it is a text or token ids, or nothing of the kind, but not several of them."""
    several = isinstance(prompt, list | tuple) and not (prompt and isinstance(prompt[0], int))
    return not several


def _is_one_conversation(messages: Any) -> bool:
    """Whether it is a list of messages, or nothing of the kind, but not several of them."""
    several = isinstance(messages, list | tuple) and not (
        messages and isinstance(messages[0], Mapping)
    )
    return not several


def _context(
    options: EngineOptions, engine: AsyncEngine, target: Path, drafter: Path | None
) -> ModelContext:
    model = model_card(options, target)
    card = drafter_card(options, drafter)
    text = load_text(options, target, model)
    return ModelContext(
        client=engine,
        tokenizer=text.tokenizer,
        model=model,
        drafting=DrafterSwitch(card, drafter_change(options, engine)),
        markup=text.markup,
        thinking=text.thinking,
        grammars=Grammars(text.compiler),
        seed=options.seed,
    )
