"""``POST /v1/chat/completions``."""

import asyncio
import secrets
import time
import uuid
from collections.abc import Awaitable

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from dflash_serve.server import errors, translate
from dflash_serve.server.context import ServerContext
from dflash_serve.server.generation import Generation
from dflash_serve.server.protocol.chat import ChatCompletion, ChatRequest
from dflash_serve.server.sse import GenerationResponse, chat_chunks
from dflash_serve.text.stream import TextStream
from dflash_serve.server.translate import Envelope
from dflash_serve.version import __version__

_FINGERPRINT = f"dflash-serve-{__version__}"


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/chat/completions", response_model=None)
    async def create_chat_completion(request: Request) -> Response:
        body = await _read(request)
        translate.check(body, context.model)
        name = f"chatcmpl-{uuid.uuid4().hex}"
        generation = await _generation(name, body, context)
        envelope = Envelope(name, int(time.time()), context.model.id, _FINGERPRINT)
        generation.start()
        if body.stream:
            return _stream(generation, envelope, body, context)
        completion = await _while_connected(request, generation, _whole(generation, envelope, body))
        return Response(completion.json_text(), media_type="application/json")

    return routes


async def _read(request: Request) -> ChatRequest:
    try:
        return ChatRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise errors.from_validation(error) from error


async def _generation(name: str, body: ChatRequest, context: ServerContext) -> Generation:
    prompt = await run_in_threadpool(  # long prompts must not hold up other streams
        context.tokenizer.encode_chat,
        translate.template_messages(body),
        body.chat_template_kwargs or {},
    )
    default = context.settings.seed
    fresh = secrets.randbits(63) if default is None else default
    seed = fresh if body.seed is None else body.seed
    requests = translate.engine_requests(body, name, prompt, context.model, seed)
    texts = [TextStream(context.tokenizer.backend, body.stop or ()) for _ in requests]
    return Generation(name, context.client, requests, texts, context.drafting, context.recorder)


def _stream(
    generation: Generation, envelope: Envelope, body: ChatRequest, context: ServerContext
) -> Response:
    usage = bool(body.stream_options and body.stream_options.include_usage)
    chunks = chat_chunks(generation, envelope, body.n or 1, usage, bool(body.return_meta_info))
    settings = context.settings
    return GenerationResponse(generation, chunks, settings.keep_alive, settings.drain_timeout)


async def _whole(generation: Generation, envelope: Envelope, body: ChatRequest) -> ChatCompletion:
    texts = [""] * (body.n or 1)
    ends = {}
    async for delta in generation.deltas():
        texts[delta.index] += delta.text
        if delta.finish is not None and delta.usage is not None:
            ends[delta.index] = (delta.finish, delta.usage)
    choices = [translate.choice(i, text, ends[i][0]) for i, text in enumerate(texts)]
    usages = [ends[i][1] for i in range(len(texts))]
    extra = {"meta_info": generation.meta_info(usages)} if body.return_meta_info else {}
    return envelope.completion(choices, usage=translate.wire_usage(usages), **extra)


async def _while_connected(
    request: Request, generation: Generation, answer: Awaitable[ChatCompletion]
) -> ChatCompletion:
    """``answer``, aborting the generation if the client leaves before it is complete."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        generation.close()

    watcher = asyncio.create_task(watch())
    try:
        return await answer
    finally:
        watcher.cancel()
        generation.close()
