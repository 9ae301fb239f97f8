"""Wire type of a chat completion's request. No behaviour.

``null`` is absent everywhere. Known parameters that cannot be honoured take their neutral value
only; unknown ones are refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from dflash_serve.server.protocol.chat_messages import Content, Message
from dflash_serve.server.protocol.common import Int, RequestModel, only
from dflash_serve.server.protocol.tools import ResponseFormat, Tool, ToolChoice

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


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


class Prediction(RequestModel):
    type: Literal["content"]
    content: Content


class ChatRequest(RequestModel):
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]

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
    logprobs: bool | None = None
    top_logprobs: Annotated[Int | None, Field(ge=0, le=20)] = None

    max_tokens: Annotated[Int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[Int | None, Field(ge=1)] = None
    min_tokens: Annotated[Int | None, Field(ge=0)] = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[Annotated[Int, Field(ge=0)]] | None, Field(max_length=256)] = (
        None
    )
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None

    n: Annotated[Int | None, Field(ge=1, le=128)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_meta_info: bool | None = None

    tools: Annotated[list[Tool] | None, Field(max_length=1024)] = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    response_format: ResponseFormat | None = None
    regex: Annotated[str | None, Field(min_length=1)] = None
    choice: Annotated[
        list[Annotated[str, Field(min_length=1)]] | None, Field(min_length=1, max_length=1024)
    ] = None
    grammar: Annotated[str | None, Field(min_length=1)] = None

    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    thinking_budget: Annotated[Int | None, Field(ge=0)] = None
    thinking_token_budget: Annotated[Int | None, Field(ge=0)] = None
    chat_template_kwargs: dict[str, Any] | None = None

    # accepted: they do not touch the output
    metadata: dict[str, str] | None = None
    prediction: Prediction | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    user: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    # known, not supported: the neutral value only
    add_generation_prompt: Annotated[None, only(True, what="A chat without an answer")] = None
    audio: Annotated[None, only(what="Audio output")] = None
    continue_final_message: Annotated[None, only(False, what="Continuing the last message")] = None
    echo: Annotated[None, only(False, what="Echoing the chat")] = None
    function_call: Annotated[
        None, only("none", "auto", what="The old `function_call`, which `tool_choice` replaces,")
    ] = None
    functions: Annotated[
        None, only([], what="The old field `functions`, which `tools` replaces,")
    ] = None
    modalities: Annotated[None, only(["text"], what="Other output than text")] = None
    skip_special_tokens: Annotated[
        None, only(True, what="Showing control tokens in the answer")
    ] = None
    web_search_options: Annotated[None, only(what="Web search")] = None
