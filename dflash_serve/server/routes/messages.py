"""Anthropic's ``POST /v1/messages`` and ``/v1/messages/count_tokens``."""

import uuid
from collections.abc import AsyncIterator, Iterable

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from dflash_serve.engine.errors import EngineError
from dflash_serve.server import errors, intake
from dflash_serve.server.begin import begin, prompt_tokens
from dflash_serve.server.context import ServerContext
from dflash_serve.server.doors.anthropic_errors import anthropic_error
from dflash_serve.server.doors.message_ask import count_ask, message_ask, wants_thinking
from dflash_serve.server.doors.message_events import MessageWriter
from dflash_serve.server.generation import Generation
from dflash_serve.server.protocol.messages import (
    CountRequest,
    MessageEvent,
    MessageOut,
    MessagesRequest,
    TokenCount,
)
from dflash_serve.server.sse import GenerationResponse, event, while_connected

_PING = event('{"type": "ping"}', "ping")


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/messages", response_model=None)
    async def create_message(request: Request) -> Response:
        body = await intake.read(request, MessagesRequest)
        intake.check_model(body.model, context.model)
        name = f"msg_{uuid.uuid4().hex}"
        sampling = intake.sampling(
            context, temperature=body.temperature, top_p=body.top_p, top_k=body.top_k
        )
        generation = await begin(message_ask(body, sampling), context, name)
        omitted = body.thinking is not None and body.thinking.display == "omitted"
        writer = MessageWriter(
            name, context.model.id, thinking=wants_thinking(body), omitted=omitted
        )
        if body.stream:
            events = _events(generation, writer)
            return GenerationResponse(generation, events, context.settings, ping=_PING)
        message = await while_connected(request, generation, _whole(generation, writer))
        return Response(message.json_text(), media_type="application/json")

    @routes.post("/v1/messages/count_tokens", response_model=None)
    async def count_tokens(request: Request) -> Response:
        body = await intake.read(request, CountRequest)
        intake.check_model(body.model, context.model)
        tokens = await run_in_threadpool(prompt_tokens, count_ask(body), context)
        count = TokenCount(input_tokens=len(tokens))
        return Response(count.json_text(), media_type="application/json")

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
