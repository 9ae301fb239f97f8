"""Wire types of ``POST /v1/responses``: the request and the items of a conversation. No behaviour.

``null`` is absent everywhere. Known parameters that cannot be honoured take their neutral value
only; unknown ones are refused. Items that a response gave out are accepted as input.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from dflash_serve.server.protocol.chat import Effort
from dflash_serve.server.protocol.common import Int, RequestModel, only, unsupported
from dflash_serve.server.protocol.tools import ToolName

_ITEMS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
_PARTS = ("input_text", "output_text", "text", "refusal")


def _item_tag(item: Any) -> str | None:
    kind = _field(item, "type")
    if kind is None:  # messages and references may leave it out
        kind = "message" if _field(item, "role") is not None else "item_reference"
    return f"<{kind}>" if kind in _ITEMS else None


def _part_tag(part: Any) -> str | None:
    kind = _field(part, "type")
    if kind == "refusal":
        return "<refusal>"
    return "<text>" if kind in _PARTS else None


def _tool_tag(tool: Any) -> str | None:
    return "<function>" if _field(tool, "type") == "function" else None


def _choice_tag(choice: Any) -> str | None:
    if isinstance(choice, str):
        return "<mode>"
    kind = _field(choice, "type")
    return f"<{kind}>" if kind in ("function", "allowed_tools") else None


def _format_tag(value: Any) -> str | None:
    kind = _field(value, "type")
    return f"<{kind}>" if kind in ("text", "json_object", "json_schema") else None


def _list_or_text(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<list>" if isinstance(value, list) else None


def _refused(what: str, kinds: tuple[str, ...]) -> BeforeValidator:
    """Refuses other kinds by name."""

    def check(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind not in kinds:
            names = ", ".join(f'"{name}"' for name in kinds)
            raise unsupported(
                f"{what} of type {kind[:40]!r} are not supported, only {names}. "
                "Remove `<field>` from the request."
            )
        return value

    return BeforeValidator(check)


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


_TEXT_OR_LIST = Discriminator(
    _list_or_text,
    custom_error_type="content_type",
    custom_error_message="Input should be a string or a list",
)
_Status = Literal["in_progress", "completed", "incomplete"] | None


class TextPart(RequestModel):
    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None  # these and what follows: as SDKs hold an answer
    logprobs: list[Any] | None = None
    parsed: Any = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


class RefusalPart(RequestModel):
    type: Literal["refusal"]
    refusal: str


Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[RefusalPart, Tag("<refusal>")],
    Discriminator(
        _part_tag,
        custom_error_type="part_type",
        custom_error_message='Input should be a part of type "input_text" or "output_text"',
    ),
    _refused("This server reads text: parts", _PARTS),
]
Parts = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Part], Tag("<list>")], _TEXT_OR_LIST
]


class MessageItem(RequestModel):
    type: Literal["message"] | None = None
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts
    status: _Status = None
    phase: str | None = None


class CallItem(RequestModel):
    type: Literal["function_call"]
    id: str | None = None
    call_id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    arguments: str
    parsed_arguments: Any = None
    status: _Status = None
    caller: Annotated[None, only({"type": "direct"})] = None
    namespace: Annotated[None, only()] = None


class CallOutputItem(RequestModel):
    type: Literal["function_call_output"]
    id: str | None = None
    call_id: Annotated[str, Field(min_length=1)]
    output: Parts
    name: str | None = None
    status: _Status = None
    caller: Annotated[None, only({"type": "direct"})] = None
    namespace: Annotated[None, only()] = None


class SummaryText(RequestModel):
    type: Literal["summary_text"]
    text: str


class ReasoningText(RequestModel):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(RequestModel):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[SummaryText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None  # another server's: nothing that can be read here
    status: _Status = None


class ItemReference(RequestModel):
    type: Literal["item_reference"] | None = None
    id: Annotated[str, Field(min_length=1)]


StoredItem = MessageItem | CallItem | CallOutputItem | ReasoningItem
Item = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[CallOutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")]
    | Annotated[ItemReference, Tag("<item_reference>")],
    Discriminator(
        _item_tag,
        custom_error_type="item_type",
        custom_error_message="Input should be an item of a conversation",
    ),
    _refused("Items", _ITEMS),
]
Input = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Item], Tag("<list>")], _TEXT_OR_LIST
]


class FunctionTool(RequestModel):
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: dict[str, Any] | None = None
    allowed_callers: Annotated[None, only([], ["direct"], what="Calling tools from code")] = None
    defer_loading: Annotated[None, only(False, what="Loading tools later")] = None
    runs_async: Annotated[
        None, only(False, what="Calling tools asynchronously"), Field(alias="async")
    ] = None


Tool = Annotated[
    Annotated[FunctionTool, Tag("<function>")],
    Discriminator(
        _tool_tag,
        custom_error_type="tool_type",
        custom_error_message='Input should be a tool of type "function"',
    ),
    _refused("Tools", ("function",)),
]


class NamedFunction(RequestModel):
    type: Literal["function"]
    name: str


class AllowedTools(RequestModel):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(min_length=1)]


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")]
    | Annotated[NamedFunction, Tag("<function>")]
    | Annotated[AllowedTools, Tag("<allowed_tools>")],
    Discriminator(
        _choice_tag,
        custom_error_type="unsupported_parameter",
        custom_error_message=(
            '`<field>` can be "none", "auto", "required", a function or a choice of allowed tools.'
        ),
    ),
]


class PlainFormat(RequestModel):
    type: Literal["text", "json_object"]


class SchemaFormat(RequestModel):
    type: Literal["json_schema"]
    name: str
    output_schema: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


Format = Annotated[
    Annotated[PlainFormat, Tag("<text>")]
    | Annotated[PlainFormat, Tag("<json_object>")]
    | Annotated[SchemaFormat, Tag("<json_schema>")],
    Discriminator(
        _format_tag,
        custom_error_type="unsupported_parameter",
        custom_error_message=(
            '`<field>` can be of type "text", "json_object" or "json_schema" only.'
        ),
    ),
]


class TextConfig(RequestModel):
    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None  # accepted, as in chat completions


class ReasoningConfig(RequestModel):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Annotated[None, only("auto")] = None
    mode: Annotated[None, only("standard")] = None


class ResponseStreamOptions(RequestModel):
    include_obfuscation: Annotated[None, only(False, what="Obfuscation of streams")] = None


Includable = Literal[
    "message.output_text.logprobs",
    # without the tools and images that these speak of there is nothing to include; reasoning
    # is given out in the open
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class ResponsesRequest(RequestModel):
    model: str
    input: Input | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    include: list[Includable] | None = None

    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None

    max_output_tokens: Annotated[Int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    top_k: Annotated[Int | None, Field(ge=-1, lt=2**31)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    seed: Annotated[Int | None, Field(ge=-(2**63), lt=2**63)] = None
    ignore_eos: bool | None = None
    top_logprobs: Annotated[Int | None, Field(ge=0, le=20)] = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # accepted: they do not touch the output
    max_tool_calls: Int | None = None  # counts calls of built-in tools, and there are none
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    user: str | None = None

    # known, not supported: the neutral value only
    stop: Annotated[None, only([], what="Stopping at a text")] = None
    access_programs: Annotated[None, only(what="Access to programs")] = None
    background: Annotated[None, only(False, what="Running in the background")] = None
    background_options: Annotated[None, only(what="Running in the background")] = None
    context_management: Annotated[None, only([], what="Managing the context")] = None
    conversation: Annotated[None, only(what="Keeping conversations as objects")] = None
    image: Annotated[None, only(what="Another way to read images")] = None
    moderation: Annotated[None, only(what="Moderation")] = None
    prompt: Annotated[None, only(what="Using stored prompts")] = None
    truncation: Annotated[
        None, only("disabled", what="Dropping items that do not fit the context")
    ] = None
