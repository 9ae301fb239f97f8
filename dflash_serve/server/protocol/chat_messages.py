"""Wire types of a chat's messages, as clients send them. No behaviour.

A message of an earlier answer may be sent back as it came, with all the fields that SDKs add.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from dflash_serve.server.protocol.common import Int, RequestModel, only, unsupported

_MEDIA = {
    "image_url": "images",
    "input_image": "images",
    "image": "images",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "videos",
    "file": "files",
    "input_file": "files",
}


def _known_part(kind: Any) -> Any:
    if isinstance(kind, str) and kind not in ("text", "refusal"):
        media = _MEDIA.get(kind, f"parts of type {kind[:40]!r}")
        raise unsupported(
            f"This model reads text only, not {media}. Remove `<part>` from the chat."
        )
    return kind


def _content_tag(content: Any) -> str | None:
    if isinstance(content, str):
        return "<text>"
    return "<parts>" if isinstance(content, list) else None


class ContentPart(RequestModel):
    """Text, or a refusal that an assistant's message repeats."""

    type: Annotated[Literal["text", "refusal"], BeforeValidator(_known_part)]
    text: Annotated[str | None, Field(validate_default=True)] = None
    refusal: Annotated[str | None, Field(validate_default=True)] = None
    cache_control: Any = None

    @field_validator("text", "refusal")
    @classmethod
    def _given(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("type") == info.field_name:
            raise PydanticCustomError("missing", "Field required")
        return value


Content = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[ContentPart], Tag("<parts>"), Field(min_length=1)],
    Discriminator(
        _content_tag,
        custom_error_type="content_type",
        custom_error_message="Input should be a string or a list of text parts",
    ),
]


def _function_only(kind: Any) -> Any:
    if kind == "custom":
        raise unsupported("Custom tools are not supported, only functions. Remove `<part>`.")
    return kind


FunctionType = Annotated[Literal["function"], BeforeValidator(_function_only)]


class FunctionCall(RequestModel):
    name: Annotated[str, Field(min_length=1)]
    arguments: str
    parsed_arguments: Any = None


class ToolCall(RequestModel):
    """A call that an earlier answer made. ``index`` comes from clients that add up streams."""

    id: Annotated[str, Field(min_length=1)]
    type: FunctionType = "function"
    function: FunctionCall
    index: Int | None = None


def _role(role: Any) -> Any:
    if role == "function":
        raise unsupported(
            'The old role "function" is not supported. Send results of tool calls in messages '
            'of role "tool".'
        )
    return role


class Message(RequestModel):
    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"],
        BeforeValidator(_role),
    ]
    content: Annotated[Content | None, Field(validate_default=True)] = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None

    # part of answers as SDKs hold them; nothing that a template reads
    annotations: list[Any] | None = None
    audio: Annotated[None, only(what="Audio")] = None
    function_call: Annotated[
        None, only(what="The old `function_call`, which `tool_calls` replaces,")
    ] = None
    parsed: Any = None
    provider_specific_fields: Any = None

    @field_validator("content")
    @classmethod
    def _required(cls, content: Content | None, info: ValidationInfo) -> Content | None:
        role = info.data.get("role", "assistant")  # an invalid role has its own error
        if content is None and role != "assistant":
            text = "A message of role '{role}' needs content"
            raise PydanticCustomError("content_missing", text, {"role": role})
        return content
