"""Wire types of chat completions' answers, whole and streamed. No behaviour."""

from typing import Literal

from dflash_serve.server.protocol.common import CompletionUsage, MetaInfo, ResponseModel

FinishReason = Literal["stop", "length", "tool_calls"]


class FunctionCallOut(ResponseModel):
    name: str
    arguments: str


class ToolCallOut(ResponseModel):
    id: str
    type: Literal["function"]
    function: FunctionCallOut


class TopLogprob(ResponseModel):
    token: str
    bytes: list[int]
    logprob: float


class ContentLogprob(ResponseModel):
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(ResponseModel):
    content: list[ContentLogprob]
    refusal: None


class AssistantMessage(ResponseModel):
    """``reasoning`` and ``reasoning_content`` are the same text: clients read one or the other."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[str]
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallOut] | None = None


class Choice(ResponseModel):
    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
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


class FunctionCallDelta(ResponseModel):
    name: str | None = None
    arguments: str


class ToolCallDelta(ResponseModel):
    """The first one of a call has id, type and name; the others have more of the arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class Delta(ResponseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(ResponseModel):
    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
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
