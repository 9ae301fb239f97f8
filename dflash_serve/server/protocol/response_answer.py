"""Wire types of what ``/v1/responses`` and the paths below it answer with. No behaviour."""

from typing import Any, Literal

from dflash_serve.server.protocol.common import ResponseModel


class OutputLogprob(ResponseModel):
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list["OutputLogprob"]


class OutputText(ResponseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[OutputLogprob]


class OutputMessage(ResponseModel):
    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class OutputCall(ResponseModel):
    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"]


class ReasoningPart(ResponseModel):
    type: Literal["reasoning_text"]
    text: str


class SummaryPart(ResponseModel):
    type: Literal["summary_text"]
    text: str


class OutputReasoning(ResponseModel):
    type: Literal["reasoning"]
    id: str
    summary: list[SummaryPart]
    content: list[ReasoningPart]
    status: Literal["in_progress", "completed", "incomplete"]


OutputItem = OutputMessage | OutputCall | OutputReasoning


class InputDetails(ResponseModel):
    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(ResponseModel):
    reasoning_tokens: int


class ResponseUsage(ResponseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Failure(ResponseModel):
    code: str
    message: str


class Incomplete(ResponseModel):
    reason: Literal["max_output_tokens"]


class Response(ResponseModel):
    """``text``, ``tools``, ``tool_choice`` and ``reasoning`` repeat the request."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: bool
    error: Failure | None
    frequency_penalty: float
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class InputTokens(ResponseModel):
    object: Literal["response.input_tokens"]
    input_tokens: int


class DeletedResponse(ResponseModel):
    id: str
    object: Literal["response"]
    deleted: bool


class ItemList(ResponseModel):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
