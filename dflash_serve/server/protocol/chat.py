"""Wire types of ``POST /v1/chat/completions``, request and response. No behaviour.

``null`` is absent everywhere. Known parameters that cannot be honoured take their neutral value
only; unknown ones are refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from dflash_serve.server.protocol.common import (
    CompletionUsage,
    MetaInfo,
    RequestModel,
    ResponseModel,
    only,
)


def _text_only(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "text":
        raise PydanticCustomError("unsupported_parameter", 'only parts of type "text" are')
    return kind


def _content_tag(content: Any) -> str | None:
    if isinstance(content, str):
        return "<text>"
    return "<parts>" if isinstance(content, list) else None


def _stop_list(stop: Any) -> Any:
    if not isinstance(stop, str | list):
        raise PydanticCustomError("stop_type", "Input should be a string or a list of strings")
    return [stop] if isinstance(stop, str) else stop


class TextPart(RequestModel):
    type: Annotated[Literal["text"], BeforeValidator(_text_only)]
    text: str


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[TextPart], Tag("<parts>"), Field(min_length=1)],
    Discriminator(
        _content_tag,
        custom_error_type="content_type",
        custom_error_message="Input should be a string or a list of text parts",
    ),
]


class Message(RequestModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Content | None, Field(validate_default=True)] = None
    name: str | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[None, only([])] = None
    function_call: Annotated[None, only()] = None
    refusal: Annotated[None, only()] = None
    audio: Annotated[None, only()] = None
    annotations: Annotated[None, only([])] = None

    @field_validator("content")
    @classmethod
    def _required(cls, content: Content | None, info: ValidationInfo) -> Content | None:
        role = info.data.get("role", "assistant")  # an invalid role has its own error
        if content is None and role != "assistant":
            text = "A message of role '{role}' needs content"
            raise PydanticCustomError("content_missing", text, {"role": role})
        return content


class StreamOptions(RequestModel):
    include_usage: bool | None = None
    include_obfuscation: Annotated[None, only(False)] = None
    continuous_usage_stats: Annotated[None, only(False)] = None


class ChatRequest(RequestModel):
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1, lt=2**31)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=1024)]],
            Field(max_length=16),
            BeforeValidator(_stop_list),
        ]
        | None
    ) = None
    n: Annotated[int | None, Field(ge=1, le=16)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_meta_info: bool | None = None

    # accepted: they do not touch the output
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None  # without tools there is nothing to run in parallel

    # known, not supported: the neutral value only
    audio: Annotated[None, only()] = None
    frequency_penalty: Annotated[None, only(0)] = None
    function_call: Annotated[None, only("none")] = None
    functions: Annotated[None, only([])] = None
    logit_bias: Annotated[None, only({})] = None
    logprobs: Annotated[None, only(False)] = None
    modalities: Annotated[None, only(["text"])] = None
    prediction: Annotated[None, only()] = None
    presence_penalty: Annotated[None, only(0)] = None
    reasoning_effort: Annotated[None, only()] = None
    repetition_penalty: Annotated[None, only(1)] = None
    response_format: Annotated[None, only({"type": "text"})] = None
    service_tier: Annotated[None, only("auto", "default")] = None
    store: Annotated[None, only(False)] = None
    tool_choice: Annotated[None, only("none")] = None
    tools: Annotated[None, only([])] = None
    top_logprobs: Annotated[None, only(0)] = None
    verbosity: Annotated[None, only("medium")] = None
    web_search_options: Annotated[None, only()] = None


FinishReason = Literal["stop", "length"]


class AssistantMessage(ResponseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(ResponseModel):
    index: int
    message: AssistantMessage
    logprobs: None
    finish_reason: FinishReason


class ChatCompletion(ResponseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: CompletionUsage
    meta_info: MetaInfo | None = None


class Delta(ResponseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(ResponseModel):
    index: int
    delta: Delta
    logprobs: None
    finish_reason: FinishReason | None


class ChatCompletionChunk(ResponseModel):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None
    meta_info: MetaInfo | None = None
