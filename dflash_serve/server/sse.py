"""A generation as server-sent events: encoding, keep-alive comments, disconnect -> abort."""

from collections.abc import AsyncIterator
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from dflash_serve.engine.errors import EngineError
from dflash_serve.engine.types import Usage
from dflash_serve.server import errors, translate
from dflash_serve.server.generation import Generation
from dflash_serve.server.protocol.chat import ChatCompletionChunk
from dflash_serve.server.protocol.common import ResponseModel
from dflash_serve.server.translate import Envelope

_GRACE_AFTER_DRAIN = 5.0
"""Seconds for the last chunks of requests that the engine aborts when draining ends."""


class GenerationResponse(EventSourceResponse):
    """Streams ``chunks``; whatever ends the response also ends the generation."""

    def __init__(
        self,
        generation: Generation,
        chunks: AsyncIterator[ResponseModel],
        keep_alive: float,
        drain_timeout: float,
    ) -> None:
        super().__init__(
            _events(chunks),
            ping=keep_alive,
            ping_message_factory=_comment,
            sep="\n",
            shutdown_grace_period=drain_timeout + _GRACE_AFTER_DRAIN,
        )
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.close()


async def chat_chunks(
    generation: Generation, envelope: Envelope, choices: int, usage: bool, meta: bool
) -> AsyncIterator[ChatCompletionChunk]:
    """The chunks of a streamed chat completion.

    ``usage``: every chunk has the field, null but on a last one without choices. ``meta``: the
    last chunk has ``meta_info``.
    """
    extra: dict[str, Any] = {"usage": None} if usage else {}
    for index in range(choices):
        yield envelope.chunk([translate.role_delta(index)], **extra)
    usages: list[Usage] = []
    async for delta in generation.deltas():
        if delta.text:
            yield envelope.chunk([translate.text_delta(delta.index, delta.text)], **extra)
        if delta.finish is None:
            continue
        usages += [delta.usage] if delta.usage else []
        last = meta and not usage and len(usages) == choices
        tail = {**extra, "meta_info": generation.meta_info(usages)} if last else extra
        yield envelope.chunk([translate.finish_delta(delta.index, delta.finish)], **tail)
    if usage:
        tail = {"meta_info": generation.meta_info(usages)} if meta else {}
        yield envelope.chunk([], usage=translate.wire_usage(usages), **tail)


async def _events(chunks: AsyncIterator[ResponseModel]) -> AsyncIterator[ServerSentEvent]:
    try:
        async for chunk in chunks:
            yield _event(chunk.json_text())
    except EngineError as error:
        yield _event(errors.from_engine(error).json_text())
    yield _event("[DONE]")


def _event(data: str) -> ServerSentEvent:
    # clients that split lines like str.splitlines see line ends in these
    for char in "\x85\u2028\u2029":
        if char in data:
            data = data.replace(char, f"\\u{ord(char):04x}")
    return ServerSentEvent(data, sep="\n")


def _comment() -> ServerSentEvent:
    return ServerSentEvent(comment="keep-alive", sep="\n")
