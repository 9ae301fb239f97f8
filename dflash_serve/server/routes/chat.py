"""``POST /v1/chat/completions``."""

import time
import uuid
from collections.abc import AsyncIterator, Iterable

from fastapi import APIRouter, Request, Response

from dflash_serve.server.ask import Ask
from dflash_serve.server.begin import begin
from dflash_serve.server.bodies import handle
from dflash_serve.server.context import ServerContext
from dflash_serve.server.deltas import Delta
from dflash_serve.server.doors.chat_answer import ChatStream, Envelope, Shape, whole
from dflash_serve.server.doors.chat_ask import read_chat
from dflash_serve.server.doors.options import Delivery
from dflash_serve.server.generation import Generation
from dflash_serve.server.sse import GenerationResponse, openai_events, while_connected
from dflash_serve.version import __version__

_FINGERPRINT = f"dflash-serve-{__version__}"


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/chat/completions", response_model=None)
    async def create_chat_completion(request: Request) -> Response:
        ask, delivery = await handle(request, read_chat, context)
        name = f"chatcmpl-{uuid.uuid4().hex}"
        generation = await begin(ask, context, name)
        envelope = Envelope(name, int(time.time()), context.model.id, _FINGERPRINT)
        shape = _shape(delivery, ask, generation)
        if delivery.stream:
            events = openai_events(_chunks(generation, ChatStream(envelope, shape)))
            return GenerationResponse(generation, events, context.settings)
        deltas = await while_connected(request, generation, _all(generation))
        return Response(whole(envelope, shape, deltas).json_text(), media_type="application/json")

    return routes


def _shape(delivery: Delivery, ask: Ask, generation: Generation) -> Shape:
    return Shape(
        choices=ask.n,
        logprobs=ask.logprobs is not None,
        named=ask.tools.only is not None,
        usage=delivery.usage,
        used=(lambda: generation.completion_tokens) if delivery.continuous_usage else None,
        prompt_tokens=generation.prompt_tokens,
        meta=generation.meta_info if delivery.meta_info else None,
    )


async def _chunks(generation: Generation, stream: ChatStream) -> AsyncIterator[Iterable[str]]:
    yield stream.begin()
    async for batch in generation.batches():
        yield stream.chunks(batch)
    yield stream.end()


async def _all(generation: Generation) -> list[Delta]:
    return [delta async for delta in generation.deltas()]
