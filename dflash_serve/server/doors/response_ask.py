"""``/v1/responses``'s request -> `Ask`, and the response object it begins with. Pure.

Knows nothing of tokenizers, engines or sockets.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from dflash_serve.engine.types import SamplingParams
from dflash_serve.server.ask import (
    Ask,
    ChatPrompt,
    FormatKind,
    OutputFormat,
    Thinking,
    ToolMode,
    ToolUse,
)
from dflash_serve.server.doors.arguments import parse_arguments
from dflash_serve.server.doors.tool_choice import (
    check_any,
    check_known,
    check_names,
    only_named,
)
from dflash_serve.server.errors import invalid, shown
from dflash_serve.server.protocol.response_answer import Response
from dflash_serve.server.protocol.responses import (
    AllowedTools,
    CallItem,
    CallOutputItem,
    MessageItem,
    NamedFunction,
    ReasoningItem,
    RefusalPart,
    ResponsesRequest,
    SchemaFormat,
    StoredItem,
    TextPart,
)
from dflash_serve.text.parsers.base import ToolSpec

_LOGPROBS = "message.output_text.logprobs"


def response_ask(
    body: ResponsesRequest,
    earlier: Sequence[StoredItem],
    own: Sequence[StoredItem],
    sampling: SamplingParams,
) -> Ask:
    """What the model is asked for, ``own`` being the items that go on with the ``earlier`` ones.

    Raises:
        ApiError: naming the field and what is wrong with it.
    """
    wanted = body.top_logprobs is not None or _LOGPROBS in (body.include or ())
    return Ask(
        prompt=_prompt(body, earlier, own),
        sampling=sampling,
        max_tokens=body.max_output_tokens,
        ignore_end=bool(body.ignore_eos),
        logprobs=(body.top_logprobs or 0) if wanted else None,
        tools=_tools(body),
        format=_format(body),
        thinking=_thinking(body),
    )


def wants_summary(body: ResponsesRequest) -> bool:
    """Whether the client reads reasoning as a summary."""
    asked = body.reasoning
    return asked is not None and bool(asked.summary or asked.generate_summary)


def begun_response(
    body: ResponsesRequest, name: str, created: int, model: str, sampling: SamplingParams
) -> Response:
    """The response object before its first token."""
    return Response(
        id=name,
        object="response",
        created_at=created,
        completed_at=None,
        status="in_progress",
        background=False,
        error=None,
        frequency_penalty=0.0,
        incomplete_details=None,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        model=model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        presence_penalty=0.0,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning=_said(body.reasoning, {"effort": None, "summary": None}),
        safety_identifier=body.safety_identifier,
        service_tier="default",
        store=body.store is not False,
        temperature=sampling.temperature,
        text=_said(body.text, {}) | {"format": _said_format(body)},
        tool_choice="auto" if body.tool_choice is None else _plain(body.tool_choice),
        tools=[_plain_tool(tool) for tool in body.tools or ()],
        top_logprobs=body.top_logprobs or 0,
        top_p=sampling.top_p,
        truncation="disabled",
        usage=None,
        user=body.user,
    )


def _prompt(
    body: ResponsesRequest, earlier: Sequence[StoredItem], own: Sequence[StoredItem]
) -> ChatPrompt:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    called: set[str] = set()
    for at, item in enumerate([*earlier, *own], -len(earlier)):
        where = f"input.{at}" if at >= 0 else "previous_response_id"
        if isinstance(item, MessageItem):
            _add_message(messages, item)
        elif isinstance(item, ReasoningItem):
            _add_reasoning(messages, item)
        elif isinstance(item, CallItem):
            called.add(item.call_id)
            _answer(messages).setdefault("tool_calls", []).append(_call(item, where))
        else:
            messages.append(_call_output(item, called, where))
    if not messages:
        raise invalid("input", "'input' is empty. Send a text or at least one item.")
    return ChatPrompt(tuple(messages), body.chat_template_kwargs or {}, param="input")


def _add_message(messages: list[dict[str, Any]], item: MessageItem) -> None:
    text = _text(item.content)
    # templates know no role "developer"; it is OpenAI's newer name for "system"
    role = "system" if item.role == "developer" else item.role
    if role == "assistant":
        _answer(messages)["content"] += text
    elif role == "system" and messages and messages[-1]["role"] == "system":
        messages[-1]["content"] += f"\n\n{text}"  # many templates take only one
    else:
        messages.append({"role": role, "content": text})


def _add_reasoning(messages: list[dict[str, Any]], item: ReasoningItem) -> None:
    parts = item.content or item.summary or ()
    text = "".join(part.text for part in parts)
    if text:
        message = _answer(messages)
        message["reasoning_content"] = message.get("reasoning_content", "") + text


def _answer(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message that the items of one answer make up together."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _call(item: CallItem, where: str) -> dict[str, Any]:
    arguments = parse_arguments(item.arguments, f"{where}.arguments")
    function = {"name": item.name, "arguments": arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _call_output(item: CallOutputItem, called: set[str], where: str) -> dict[str, Any]:
    if item.call_id not in called:
        message = f"No tool call found for function call output with call_id {shown(item.call_id)}"
        raise invalid(f"{where}.call_id", message)
    return {"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)}


def _text(content: str | list[TextPart | RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _tools(body: ResponsesRequest) -> ToolUse:
    choice = body.tool_choice
    tools = tuple(
        ToolSpec(tool.name, tool.description, tool.parameters, bool(tool.strict))
        for tool in body.tools or ()
    )
    check_names(tools, "name")
    parallel = body.parallel_tool_calls is not False
    if isinstance(choice, AllowedTools):
        tools = only_named(tools, [(tool.name, "tool_choice") for tool in choice.tools])
        return ToolUse(tools, ToolMode(choice.mode), parallel=parallel)
    if isinstance(choice, NamedFunction):
        check_known(choice.name, tools, "tool_choice")
        return ToolUse(tools, ToolMode.REQUIRED, choice.name, parallel)
    mode = ToolMode(choice or "auto")
    check_any(mode, tools, mode.value)
    return ToolUse(tools, mode, parallel=parallel)


def _format(body: ResponsesRequest) -> OutputFormat | None:
    form = body.text.format if body.text else None
    if form is None or form.type == "text":
        return None
    if isinstance(form, SchemaFormat):
        return OutputFormat(FormatKind.JSON_SCHEMA, form.output_schema, param="text.format")
    return OutputFormat(FormatKind.JSON_OBJECT, param="text.format")


def _thinking(body: ResponsesRequest) -> Thinking:
    effort = body.reasoning.effort if body.reasoning else None
    if effort is None:
        return Thinking()
    return Thinking(enabled=False) if effort == "none" else Thinking(True, effort)


def _said(part: BaseModel | None, defaults: dict[str, Any]) -> dict[str, Any]:
    return defaults | ({} if part is None else _plain(part))


def _said_format(body: ResponsesRequest) -> dict[str, Any]:
    form = body.text.format if body.text else None
    return {"type": "text"} if form is None else _plain(form)


def _plain_tool(tool: BaseModel) -> dict[str, Any]:
    return {"description": None, "parameters": None, "strict": None} | _plain(tool)


def _plain(part: Any) -> Any:
    if not isinstance(part, BaseModel):
        return part
    return part.model_dump(exclude_none=True, by_alias=True)
