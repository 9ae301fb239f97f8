"""``POST /tokenize`` and ``/detokenize``: the served model's tokenizer, over HTTP."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from dflash_serve.server import intake, thinking
from dflash_serve.server.ask import Thinking
from dflash_serve.server.context import ServerContext
from dflash_serve.server.doors.chat_ask import template_messages, tool_specs
from dflash_serve.server.errors import ApiError, invalid
from dflash_serve.server.protocol.tokenize import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from dflash_serve.text.errors import TemplateError


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.post("/tokenize", response_model=None)
    async def tokenize(request: Request) -> Response:
        body = await intake.read(request, TokenizeRequest)
        if body.model is not None:
            intake.check_model(body.model, context.model)
        tokens = await run_in_threadpool(_tokens, body, context)
        names = None
        if body.return_token_strs:
            backend = context.tokenizer.backend
            names = [backend.id_to_token(token) or "" for token in tokens]
        answer = TokenizeResponse(
            count=len(tokens),
            max_model_len=context.max_context,
            tokens=list(tokens),
            token_strs=names,
        )
        return Response(answer.json_text(), media_type="application/json")

    @routes.post("/detokenize", response_model=None)
    async def detokenize(request: Request) -> Response:
        body = await intake.read(request, DetokenizeRequest)
        if body.model is not None:
            intake.check_model(body.model, context.model)
        _check_known(body.tokens, context)
        text = await run_in_threadpool(context.tokenizer.decode, body.tokens)
        answer = DetokenizeResponse(prompt=text)
        return Response(answer.json_text(), media_type="application/json")

    return routes


def _tokens(body: TokenizeRequest, context: ServerContext) -> tuple[int, ...]:
    """
    Raises:
        ApiError: naming the field and what is wrong with it.
    """
    if (body.prompt is None) == (body.messages is None):
        message = "Give either 'prompt' or 'messages', not both and not neither"
        raise invalid("prompt", message)
    if body.prompt is None:
        return _chat_tokens(body, context)
    tokenizer = context.tokenizer
    encode = tokenizer.encode_markup if body.add_special_tokens is False else tokenizer.encode_raw
    try:
        return encode(body.prompt)
    except TemplateError as error:
        raise invalid("prompt", str(error)) from error


def _chat_tokens(body: TokenizeRequest, context: ServerContext) -> tuple[int, ...]:
    if body.add_special_tokens:
        message = (
            "The chat template adds the control tokens of a chat itself. Remove "
            "`add_special_tokens` from the request."
        )
        raise ApiError(400, message, param="add_special_tokens", code="unsupported_parameter")
    switches = thinking.template_arguments(
        Thinking(), context.thinking, body.chat_template_kwargs or {}
    )
    try:
        return context.tokenizer.encode_chat(
            template_messages(body.messages or ()),
            switches,
            tools=tool_specs(body.tools),
            generation_prompt=body.add_generation_prompt is not False,
        )
    except TemplateError as error:
        raise ApiError(400, str(error), param=error.param, code="template_error") from error


def _check_known(tokens: list[int], context: ServerContext) -> None:
    backend, size = context.tokenizer.backend, context.model.vocab_size
    for place, token in enumerate(tokens):
        if token >= size or backend.id_to_token(token) is None:
            param = f"tokens.{place}"
            message = f"Invalid '{param}': the vocabulary has no token with the id {token}"
            raise invalid(param, message)
