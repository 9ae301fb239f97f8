"""Anthropic's ``POST /v1/messages`` and ``/v1/messages/count_tokens``."""

import uuid
from collections.abc import AsyncIterator, Iterable

from fastapi import APIRouter, Request, Response

from dflash_serve.engine.errors import EngineError
from dflash_serve.server import errors
from dflash_serve.server.begin import begin
from dflash_serve.server.bodies import handle
from dflash_serve.server.context import ServerContext
from dflash_serve.server.doors.anthropic_errors import anthropic_error
from dflash_serve.server.doors.message_ask import count_message, read_message
from dflash_serve.server.doors.message_events import MessageWriter
from dflash_serve.server.generation import Generation
from dflash_serve.server.protocol.messages import MessageEvent, MessageOut
from dflash_serve.server.sse import GenerationResponse, event, while_connected

_PING = event('{"type": "ping"}', "ping")


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/messages", response_model=None)
    async def create_message(request: Request) -> Response:
        ask, delivery = await handle(request, read_message, context)
        name = f"msg_{uuid.uuid4().hex}"
        generation = await begin(ask, context, name)
        writer = MessageWriter(
            name, context.model.id, thinking=delivery.thinking, omitted=delivery.omitted
        )
        if delivery.stream:
            events = _events(generation, writer)
            return GenerationResponse(generation, events, context.settings, ping=_PING)
        message = await while_connected(request, generation, _whole(generation, writer))
        return Response(message.json_text(), media_type="application/json")

    @routes.post("/v1/messages/count_tokens", response_model=None)
    async def count_tokens(request: Request) -> Response:
        answer = await handle(request, count_message, context)
        return Response(answer, media_type="application/json")

    return routes


async def _events(generation: Generation, writer: MessageWriter) -> AsyncIterator[bytes]:
    yield _encoded(writer.begin(generation.prompt_tokens))
    try:
        async for batch in generation.batches():
            # a batch of reasoning that is not given out has no events
            if data := b"".join(_encoded(writer.push(delta)) for delta in batch):
                yield data
    except EngineError as error:
        fault = anthropic_error(errors.from_engine(error))
        yield event(fault.json_text(), "error")


def _encoded(events: Iterable[MessageEvent]) -> bytes:
    return b"".join(event(item.json_text(), item.type) for item in events)


async def _whole(generation: Generation, writer: MessageWriter) -> MessageOut:
    writer.begin(generation.prompt_tokens)
    async for delta in generation.deltas():
        writer.push(delta)
    return writer.message
