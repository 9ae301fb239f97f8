"""``POST /v1/completions``."""

import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence

from fastapi import APIRouter, Request, Response

from dflash_serve.server.ask import Ask
from dflash_serve.server.bodies import handle
from dflash_serve.server.context import ServerContext
from dflash_serve.server.doors.completion_answer import CompletionShape, CompletionWriter
from dflash_serve.server.doors.completion_ask import read_completion
from dflash_serve.server.doors.options import Delivery
from dflash_serve.server.doors.several import Several, begin_all
from dflash_serve.server.protocol.completions import Completion
from dflash_serve.server.sse import GenerationResponse, openai_events, while_connected
from dflash_serve.version import __version__


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/completions", response_model=None)
    async def create_completion(request: Request) -> Response:
        asks, delivery = await handle(request, read_completion, context)
        name = f"cmpl-{uuid.uuid4().hex}"
        several = await begin_all(asks, context, name)
        writer = CompletionWriter(_shape(name, delivery, asks, several, context))
        if delivery.stream:
            events = openai_events(_chunks(several, writer))
            return GenerationResponse(several, events, context.settings)
        completion = await while_connected(request, several, _whole(several, writer))
        return Response(completion.json_text(), media_type="application/json")

    return routes


def _shape(
    name: str,
    delivery: Delivery,
    asks: Sequence[Ask],
    several: Several,
    context: ServerContext,
) -> CompletionShape:
    return CompletionShape(
        id=name,
        created=int(time.time()),
        model=context.model.id,
        fingerprint=f"dflash-serve-{__version__}",
        choices=sum(ask.n for ask in asks),
        n=asks[0].n,
        top=asks[0].logprobs,
        usage=delivery.usage,
        used=(lambda: several.completion_tokens) if delivery.continuous_usage else None,
        prompt_tokens=several.prompt_tokens,
        meta=several.meta_info if delivery.meta_info else None,
    )


async def _chunks(several: Several, writer: CompletionWriter) -> AsyncIterator[Iterable[str]]:
    async for batch in several.batches():
        yield writer.chunks(batch)
    yield writer.end()


async def _whole(several: Several, writer: CompletionWriter) -> Completion:
    async for batch in several.batches():
        for delta in batch:
            writer.add(delta)
    return writer.whole()
