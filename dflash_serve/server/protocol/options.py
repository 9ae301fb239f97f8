"""Wire types of what chats and text completions share: how an answer is drawn. No behaviour."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from dflash_serve.server.protocol.common import Int, RequestModel, only
from dflash_serve.server.protocol.tools import ResponseFormat

MAX_CHOICES = 128


def _stop_list(stop: Any) -> Any:
    if not isinstance(stop, str | list):
        raise PydanticCustomError("stop_type", "Input should be a string or a list of strings")
    return [stop] if isinstance(stop, str) else stop


Stop = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1024)]],
    Field(max_length=16),
    BeforeValidator(_stop_list),
]
"""A stop string, or some."""


class StreamOptions(RequestModel):
    include_usage: bool | None = None
    include_obfuscation: Annotated[None, only(False, what="Obfuscation of streams")] = None
    continuous_usage_stats: bool | None = None


class AnswerOptions(RequestModel):
    """OpenAI's parameters of both doors, and the extensions that vLLM's users know."""

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_k: Annotated[Int | None, Field(ge=-1, lt=2**31)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    seed: Annotated[Int | None, Field(ge=-(2**63), lt=2**63)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=2)] = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^[0-9]{1,10}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=1024),
        ]
        | None
    ) = None

    min_tokens: Annotated[Int | None, Field(ge=0)] = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[Annotated[Int, Field(ge=0)]] | None, Field(max_length=256)] = (
        None
    )
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None

    n: Annotated[Int | None, Field(ge=1, le=MAX_CHOICES)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_meta_info: bool | None = None

    response_format: ResponseFormat | None = None
    regex: Annotated[str | None, Field(min_length=1)] = None
    choice: Annotated[
        list[Annotated[str, Field(min_length=1)]] | None, Field(min_length=1, max_length=1024)
    ] = None
    grammar: Annotated[str | None, Field(min_length=1)] = None

    # accepted: they do not touch the output
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    user: str | None = None

    # known, not supported: the neutral value only
    skip_special_tokens: Annotated[
        None, only(True, what="Showing control tokens in the answer")
    ] = None
