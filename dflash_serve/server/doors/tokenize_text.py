"""``/tokenize`` and ``/detokenize``: body -> answer. Knows nothing of engines or sockets."""

from dflash_serve.server import intake, thinking
from dflash_serve.server.ask import Thinking
from dflash_serve.server.doors.chat_ask import template_messages, tool_specs
from dflash_serve.server.errors import ApiError, invalid
from dflash_serve.server.handling import Facts, Handling
from dflash_serve.server.protocol.tokenize import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from dflash_serve.text.errors import TemplateError


def tokenize(data: bytes, handling: Handling) -> str:
    """The answer's JSON: the tokens of a text or of messages.

    Raises:
        ApiError: naming the field and what is wrong with it.
    """
    body, facts = intake.parse(data, TokenizeRequest), handling.facts
    if body.model is not None:
        intake.check_model(body.model, facts)
    tokens = _tokens(body, facts)
    names = None
    if body.return_token_strs:
        backend = facts.tokenizer.backend
        names = [backend.id_to_token(token) or "" for token in tokens]
    size = facts.max_context if handling.room is None else handling.room
    answer = TokenizeResponse(
        count=len(tokens), max_model_len=size, tokens=list(tokens), token_strs=names
    )
    return answer.json_text()


def detokenize(data: bytes, handling: Handling) -> str:
    """The answer's JSON: the text of tokens.

    Raises:
        ApiError: naming the field and what is wrong with it.
    """
    body, facts = intake.parse(data, DetokenizeRequest), handling.facts
    if body.model is not None:
        intake.check_model(body.model, facts)
    _check_known(body.tokens, facts)
    return DetokenizeResponse(prompt=facts.tokenizer.decode(body.tokens)).json_text()


def _tokens(body: TokenizeRequest, facts: Facts) -> tuple[int, ...]:
    if (body.prompt is None) == (body.messages is None):
        message = "Give either 'prompt' or 'messages', not both and not neither"
        raise invalid("prompt", message)
    if body.prompt is None:
        return _chat_tokens(body, facts)
    tokenizer = facts.tokenizer
    encode = tokenizer.encode_markup if body.add_special_tokens is False else tokenizer.encode_raw
    try:
        return encode(body.prompt)
    except TemplateError as error:
        raise invalid("prompt", str(error)) from error


def _chat_tokens(body: TokenizeRequest, facts: Facts) -> tuple[int, ...]:
    if body.add_special_tokens:
        message = (
            "The chat template adds the control tokens of a chat itself. Remove "
            "`add_special_tokens` from the request."
        )
        raise ApiError(400, message, param="add_special_tokens", code="unsupported_parameter")
    switches = thinking.template_arguments(
        Thinking(), facts.thinking, body.chat_template_kwargs or {}
    )
    try:
        return facts.tokenizer.encode_chat(
            template_messages(body.messages or ()),
            switches,
            tools=tool_specs(body.tools),
            generation_prompt=body.add_generation_prompt is not False,
        )
    except TemplateError as error:
        raise ApiError(400, str(error), param=error.param, code="template_error") from error


def _check_known(tokens: list[int], facts: Facts) -> None:
    backend = facts.tokenizer.backend
    for place, token in enumerate(tokens):
        if token >= facts.vocab_size or backend.id_to_token(token) is None:
            param = f"tokens.{place}"
            message = f"Invalid '{param}': the vocabulary has no token with the id {token}"
            raise invalid(param, message)
