"""Wire types of Anthropic's ``POST /v1/messages`` and ``/v1/messages/count_tokens``. No behaviour.

``null`` is absent everywhere. Known parameters that cannot be honoured take their neutral value
only; unknown ones are refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from dflash_serve.server.protocol.common import (
    Int,
    RequestModel,
    ResponseModel,
    only,
    unsupported,
)
from dflash_serve.server.protocol.tools import ToolName

_TURN_BLOCKS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
}


def _only_kinds(*kinds: str) -> tuple[Discriminator, BeforeValidator]:
    """Chooses by ``type``; other kinds are refused by name."""
    names = ", ".join(f'"{kind}"' for kind in kinds)

    def check(block: Any) -> Any:
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(kind, str) and kind not in kinds:
            raise unsupported(
                f"This server reads text: blocks of type {kind[:40]!r} are not supported here, "
                f"only {names}. Remove `<field>` from the request."
            )
        return block

    chooser = Discriminator(
        lambda block: _tag(block, "type", kinds),
        custom_error_type="block_type",
        custom_error_message=f"Input should be a block of type {names}",
    )
    return chooser, BeforeValidator(check)


def _tag(value: Any, key: str, known: tuple[str, ...]) -> str | None:
    kind = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
    return f"<{kind}>" if kind in known else None


def _text_or_blocks(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<blocks>" if isinstance(value, list) else None


_EITHER = Discriminator(
    _text_or_blocks,
    custom_error_type="content_type",
    custom_error_message="Input should be a string or a list of blocks",
)
Text = Annotated[str, Tag("<text>")]


CacheControl = dict[str, Any]
"""Accepted wherever Anthropic has it: prefixes are found without marks."""


class Block(RequestModel):
    cache_control: CacheControl | None = None


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: Annotated[None, only([], what="Citing sources")] = None


TextBlocks = Annotated[
    list[Annotated[Annotated[TextBlock, Tag("<text>")], *_only_kinds("text")]], Tag("<blocks>")
]
TextContent = Annotated[Text | TextBlocks, _EITHER]


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    input: dict[str, Any]
    caller: Annotated[None, only({"type": "direct"})] = None
    toolset_name: Annotated[None, only()] = None


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1)]
    content: TextContent | None = None
    is_error: bool | None = None
    toolset_name: Annotated[None, only()] = None


class ThinkingBlock(RequestModel):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(RequestModel):
    type: Literal["redacted_thinking"]
    data: str


UserBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")] | Annotated[ToolResultBlock, Tag("<tool_result>")],
    *_only_kinds(*_TURN_BLOCKS["user"]),
]
AssistantBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[RedactedThinkingBlock, Tag("<redacted_thinking>")],
    *_only_kinds(*_TURN_BLOCKS["assistant"]),
]


class UserTurn(RequestModel):
    role: Literal["user"]
    content: Annotated[Text | Annotated[list[UserBlock], Tag("<blocks>")], _EITHER]


class AssistantTurn(RequestModel):
    role: Literal["assistant"]
    content: Annotated[Text | Annotated[list[AssistantBlock], Tag("<blocks>")], _EITHER]


class SystemTurn(RequestModel):
    role: Literal["system"]
    content: TextContent


Turn = Annotated[
    Annotated[UserTurn, Tag("<user>")]
    | Annotated[AssistantTurn, Tag("<assistant>")]
    | Annotated[SystemTurn, Tag("<system>")],
    Discriminator(
        lambda turn: _tag(turn, "role", ("user", "assistant", "system")),
        custom_error_type="role",
        custom_error_message="The role should be 'user', 'assistant' or 'system'",
    ),
]


def _own_tool(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "custom":
        raise unsupported(
            f"Tools of type {kind[:40]!r} are Anthropic's own and not supported by this server, "
            "only tools with a name and an input_schema. Remove `<part>` from the request."
        )
    return kind


class Tool(Block):
    type: Annotated[Literal["custom"] | None, BeforeValidator(_own_tool)] = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    eager_input_streaming: bool | None = None  # arguments always stream as they come
    allowed_callers: Annotated[None, only([], ["direct"], what="Calling tools from code")] = None
    defer_loading: Annotated[None, only(False, what="Loading tools later")] = None
    input_examples: Annotated[None, only([], what="Giving examples of a tool's input")] = None


class ToolChoice(RequestModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(RequestModel):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[Int | None, Field(ge=1, lt=2**31)] = None
    display: Literal["summarized", "omitted"] | None = None


class JsonFormat(RequestModel):
    type: Literal["json_schema"]
    output_schema: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(RequestModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class Metadata(RequestModel):
    user_id: Annotated[str, Field(max_length=512)] | None = None


_KEEP_THINKING = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
"""An edit that leaves everything as it is; coding agents send it."""


class CountRequest(RequestModel):
    """What a prompt is made of. ``POST /v1/messages/count_tokens`` takes no more."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: TextContent | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None  # its place before there was output_config

    # accepted: they do not touch the output
    cache_control: CacheControl | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None

    # known, not supported: the neutral value only
    context_management: Annotated[
        None, only({}, {"edits": []}, _KEEP_THINKING, what="Editing the context")
    ] = None
    compaction: Annotated[None, only(what="Compacting a conversation")] = None
    fallbacks: Annotated[None, only([], what="Falling back to other models")] = None
    mcp_servers: Annotated[None, only([], what="Connecting to MCP servers")] = None
    prefill: Annotated[None, only(what="Continuing an answer that was begun")] = None
    speed: Annotated[None, only("standard", what="Another speed")] = None
    thread: Annotated[None, only(False, what="Keeping a conversation on the server")] = None


class MessagesRequest(CountRequest):
    max_tokens: Annotated[Int, Field(ge=1)]
    temperature: Annotated[float | None, Field(ge=0, le=1)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_k: Annotated[Int | None, Field(ge=0, lt=2**31)] = None
    stop_sequences: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(max_length=16)]
        | None
    ) = None
    stream: bool | None = None

    # accepted: they do not touch the output
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    # known, not supported: the neutral value only
    container: Annotated[None, only(what="Running code in a container")] = None
    diagnostics: Annotated[None, only(what="Diagnosing the prompt cache")] = None
    inference_geo: Annotated[None, only(what="Choosing a region")] = None


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TextOut(ResponseModel):
    type: Literal["text"]
    text: str
    citations: None


class ThinkingOut(ResponseModel):
    type: Literal["thinking"]
    thinking: str
    signature: str


class Caller(ResponseModel):
    type: Literal["direct"]


class ToolUseOut(ResponseModel):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: Caller


BlockOut = TextOut | ThinkingOut | ToolUseOut


class ThinkingTokens(ResponseModel):
    thinking_tokens: int


class DeltaUsage(ResponseModel):
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens
    server_tool_use: None


class MessageUsage(DeltaUsage):
    cache_creation: None
    inference_geo: None
    service_tier: Literal["standard"]


class MessageOut(ResponseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[BlockOut]
    stop_reason: StopReason | None
    stop_sequence: str | None
    stop_details: None
    container: None
    usage: MessageUsage


class TokenCount(ResponseModel):
    input_tokens: int


class MessageStart(ResponseModel):
    type: Literal["message_start"]
    message: MessageOut


class BlockStart(ResponseModel):
    type: Literal["content_block_start"]
    index: int
    content_block: BlockOut


class TextDelta(ResponseModel):
    type: Literal["text_delta"]
    text: str


class InputJsonDelta(ResponseModel):
    type: Literal["input_json_delta"]
    partial_json: str


class ThinkingDelta(ResponseModel):
    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(ResponseModel):
    type: Literal["signature_delta"]
    signature: str


DeltaOut = TextDelta | InputJsonDelta | ThinkingDelta | SignatureDelta


class BlockDelta(ResponseModel):
    type: Literal["content_block_delta"]
    index: int
    delta: DeltaOut


class BlockStop(ResponseModel):
    type: Literal["content_block_stop"]
    index: int


class StopDelta(ResponseModel):
    stop_reason: StopReason
    stop_sequence: str | None
    stop_details: None
    container: None


class MessageDelta(ResponseModel):
    type: Literal["message_delta"]
    delta: StopDelta
    usage: DeltaUsage


class MessageStop(ResponseModel):
    type: Literal["message_stop"]


MessageEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


class FaultDetails(ResponseModel):
    error_code: str


class Fault(ResponseModel):
    """``details`` are for clients that can go on without what was refused."""

    type: str
    message: str
    details: FaultDetails | None = None


class ErrorOut(ResponseModel):
    """The body of every answer that is not 2xx, and the data of a stream's ``error`` event."""

    type: Literal["error"]
    error: Fault
    request_id: str
