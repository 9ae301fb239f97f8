"""Wire type of a chat completion's request. No behaviour.

``null`` is absent everywhere. Known parameters that cannot be honoured take their neutral value
only; unknown ones are refused.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from dflash_serve.server.protocol.chat_messages import Content, Message
from dflash_serve.server.protocol.common import Int, RequestModel, only
from dflash_serve.server.protocol.options import AnswerOptions
from dflash_serve.server.protocol.tools import Tool, ToolChoice

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Prediction(RequestModel):
    type: Literal["content"]
    content: Content


class ChatRequest(AnswerOptions):
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]

    logprobs: bool | None = None
    top_logprobs: Annotated[Int | None, Field(ge=0, le=20)] = None

    max_tokens: Annotated[Int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[Int | None, Field(ge=1)] = None
    tools: Annotated[list[Tool] | None, Field(max_length=1024)] = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    thinking_budget: Annotated[Int | None, Field(ge=0)] = None
    thinking_token_budget: Annotated[Int | None, Field(ge=0)] = None
    chat_template_kwargs: dict[str, Any] | None = None

    # accepted: they do not touch the output
    prediction: Prediction | None = None
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
    web_search_options: Annotated[None, only(what="Web search")] = None
