"""Wire types of tools and output formats in chat requests. No behaviour."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from dflash_serve.server.protocol.chat_messages import FunctionType
from dflash_serve.server.protocol.common import RequestModel, unsupported

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]


class FunctionSpec(RequestModel):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _object(cls, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        kind = (parameters or {}).get("type", "object")
        if kind != "object":
            text = 'Input should be a JSON schema of type "object"'
            raise PydanticCustomError("parameters_type", text)
        return parameters


class Tool(RequestModel):
    type: FunctionType
    function: FunctionSpec


class NamedFunction(RequestModel):
    name: Annotated[str, Field(min_length=1)]


class NamedTool(RequestModel):
    type: FunctionType
    function: NamedFunction


class AllowedTools(RequestModel):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedToolsChoice(RequestModel):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _choice_tag(choice: Any) -> str | None:
    if isinstance(choice, BaseModel):
        return "<allowed>" if isinstance(choice, AllowedToolsChoice) else "<named>"
    if isinstance(choice, dict):
        return "<allowed>" if choice.get("type") == "allowed_tools" else "<named>"
    return "<mode>" if isinstance(choice, str) else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")]
    | Annotated[NamedTool, Tag("<named>")]
    | Annotated[AllowedToolsChoice, Tag("<allowed>")],
    Discriminator(
        _choice_tag,
        custom_error_type="tool_choice_type",
        custom_error_message=(
            'Input should be "none", "auto", "required" or an object that names a function'
        ),
    ),
]


def _schema(value: Any) -> Any:
    if value is not None and not isinstance(value, dict | bool):
        raise PydanticCustomError("schema_type", "Input should be a JSON schema: an object")
    return value


class JsonSchema(RequestModel):
    """``schema`` is a JSON schema. The answer keeps to it with ``strict`` false too, as far as
    its keywords can be guaranteed; with ``strict`` true others are refused.
    """

    name: str | None = None
    description: str | None = None
    schema_: Annotated[Any, BeforeValidator(_schema), Field(alias="schema")] = None
    strict: bool | None = None


def _format_type(kind: Any) -> Any:
    if kind == "grammar":
        raise unsupported("Give a grammar in the field `grammar`, not in `<field>`.")
    return kind


class ResponseFormat(RequestModel):
    type: Annotated[Literal["text", "json_object", "json_schema"], BeforeValidator(_format_type)]
    json_schema: Annotated[JsonSchema | None, Field(validate_default=True)] = None
