"""``POST /v1/completions``."""

import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence

from fastapi import APIRouter, Request, Response

from dflash_serve.server import intake
from dflash_serve.server.ask import Ask
from dflash_serve.server.context import ServerContext
from dflash_serve.server.doors.completion_answer import CompletionShape, CompletionWriter
from dflash_serve.server.doors.completion_ask import completion_asks
from dflash_serve.server.doors.several import Several, begin_all
from dflash_serve.server.protocol.completions import Completion, CompletionRequest
from dflash_serve.server.protocol.options import StreamOptions
from dflash_serve.server.sse import GenerationResponse, openai_events, while_connected
from dflash_serve.version import __version__


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/completions", response_model=None)
    async def create_completion(request: Request) -> Response:
        body = await intake.read(request, CompletionRequest)
        asks = completion_asks(body, context)
        name = f"cmpl-{uuid.uuid4().hex}"
        several = await begin_all(asks, context, name)
        writer = CompletionWriter(_shape(name, body, asks, several, context))
        if body.stream:
            events = openai_events(_chunks(several, writer))
            return GenerationResponse(several, events, context.settings)
        completion = await while_connected(request, several, _whole(several, writer))
        return Response(completion.json_text(), media_type="application/json")

    return routes


def _shape(
    name: str,
    body: CompletionRequest,
    asks: Sequence[Ask],
    several: Several,
    context: ServerContext,
) -> CompletionShape:
    options = body.stream_options or StreamOptions()
    return CompletionShape(
        id=name,
        created=int(time.time()),
        model=context.model.id,
        fingerprint=f"dflash-serve-{__version__}",
        choices=sum(ask.n for ask in asks),
        n=asks[0].n,
        top=body.logprobs,
        usage=bool(options.include_usage),
        used=(lambda: several.completion_tokens) if options.continuous_usage_stats else None,
        prompt_tokens=several.prompt_tokens,
        meta=several.meta_info if body.return_meta_info else None,
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
