"""Wire types of the events that ``POST /v1/responses`` streams. No behaviour."""

from typing import Literal

from dflash_serve.server.protocol.common import ResponseModel
from dflash_serve.server.protocol.response_answer import (
    OutputItem,
    OutputLogprob,
    OutputText,
    ReasoningPart,
    Response,
    SummaryPart,
)


class ResponseEvent(ResponseModel):
    type: str
    sequence_number: int


class LifecycleEvent(ResponseEvent):
    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: Response


class ItemEvent(ResponseEvent):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class InItemEvent(ResponseEvent):
    """What happens inside one output item."""

    output_index: int
    item_id: str


class PartEvent(InItemEvent):
    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: OutputText | ReasoningPart


class TextDeltaEvent(InItemEvent):
    type: Literal["response.output_text.delta"]
    content_index: int
    delta: str
    logprobs: list[OutputLogprob]


class TextDoneEvent(InItemEvent):
    type: Literal["response.output_text.done"]
    content_index: int
    text: str
    logprobs: list[OutputLogprob]


class ReasoningDeltaEvent(InItemEvent):
    type: Literal["response.reasoning_text.delta"]
    content_index: int
    delta: str


class ReasoningDoneEvent(InItemEvent):
    type: Literal["response.reasoning_text.done"]
    content_index: int
    text: str


class SummaryPartEvent(InItemEvent):
    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    summary_index: int
    part: SummaryPart


class SummaryDeltaEvent(InItemEvent):
    type: Literal["response.reasoning_summary_text.delta"]
    summary_index: int
    delta: str


class SummaryDoneEvent(InItemEvent):
    type: Literal["response.reasoning_summary_text.done"]
    summary_index: int
    text: str


class ArgumentsDeltaEvent(InItemEvent):
    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDoneEvent(InItemEvent):
    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str
