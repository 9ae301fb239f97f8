"""``POST /tokenize`` and ``/detokenize``: the served model's tokenizer, over HTTP."""

from fastapi import APIRouter, Request, Response

from dflash_serve.server.bodies import handle
from dflash_serve.server.context import ServerContext
from dflash_serve.server.doors import tokenize_text


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.post("/tokenize", response_model=None)
    async def tokenize(request: Request) -> Response:
        answer = await handle(request, tokenize_text.tokenize, context)
        return Response(answer, media_type="application/json")

    @routes.post("/detokenize", response_model=None)
    async def detokenize(request: Request) -> Response:
        answer = await handle(request, tokenize_text.detokenize, context)
        return Response(answer, media_type="application/json")

    return routes
