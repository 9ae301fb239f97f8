"""Wire types of ``POST /tokenize`` and ``/detokenize``, as vLLM's users know them. No behaviour."""

from typing import Annotated, Any

from pydantic import Field

from dflash_serve.server.protocol.chat_messages import Message
from dflash_serve.server.protocol.common import Int, RequestModel, ResponseModel, only
from dflash_serve.server.protocol.tools import Tool


class TokenizeRequest(RequestModel):
    """Either ``prompt`` or ``messages``."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # known, not supported: the neutral value only
    chat_template: Annotated[None, only()] = None
    continue_final_message: Annotated[None, only(False)] = None
    mm_processor_kwargs: Annotated[None, only({})] = None


class TokenizeResponse(ResponseModel):
    """``token_strs`` are the vocabulary's own names of the tokens, null unless asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(RequestModel):
    model: str | None = None
    tokens: list[Annotated[Int, Field(ge=0, lt=2**31)]]


class DetokenizeResponse(ResponseModel):
    prompt: str
