"""A chat completion's request -> `Ask`. Knows nothing of engines or sockets."""

from collections.abc import Sequence
from typing import Any

from dflash_serve.server import intake
from dflash_serve.server.ask import (
    Ask,
    ChatPrompt,
    Thinking,
    ToolMode,
    ToolUse,
)
from dflash_serve.server.doors import options
from dflash_serve.server.doors.arguments import parse_arguments
from dflash_serve.server.doors.tool_choice import (
    check_any,
    check_known,
    check_names,
    only_named,
)
from dflash_serve.server.errors import ApiError, invalid, shown
from dflash_serve.server.handling import Facts, Handling
from dflash_serve.server.prompts import encoded
from dflash_serve.server.protocol.chat import ChatRequest
from dflash_serve.server.protocol.chat_messages import ContentPart, Message, ToolCall
from dflash_serve.server.protocol.tools import AllowedToolsChoice, NamedTool, Tool
from dflash_serve.text.parsers.base import ToolSpec


def read_chat(data: bytes, handling: Handling) -> tuple[Ask, options.Delivery]:
    """The body as an `Ask` whose prompt is encoded.

    Raises:
        ApiError: naming the field, the value and the limit.
    """
    body = intake.parse(data, ChatRequest)
    ask = encoded(chat_ask(body, handling.facts), handling.facts, handling.room)
    return ask, options.delivery(body)


def chat_ask(body: ChatRequest, facts: Facts) -> Ask:
    """What the request asks of the model.

    Raises:
        ApiError: naming the field, the value and the limit.
    """
    intake.check_model(body.model, facts)
    options.check_stream(body)
    max_tokens = _max_tokens(body)
    return Ask(
        prompt=ChatPrompt(template_messages(body.messages), dict(body.chat_template_kwargs or {})),
        sampling=options.sampling(body, facts),
        n=body.n or 1,
        max_tokens=max_tokens,
        rules=options.rules(body, facts, max_tokens),
        stop=tuple(body.stop or ()),
        stop_tokens=options.stop_tokens(body, facts),
        ignore_end=bool(body.ignore_eos),
        include_stop=bool(body.include_stop_str_in_output),
        logprobs=_logprobs(body),
        tools=_tool_use(body),
        format=options.output_format(body),
        thinking=_thinking(body),
    )


def template_messages(messages: Sequence[Message]) -> tuple[dict[str, Any], ...]:
    """The messages as chat templates read them: text parts joined, arguments as objects.

    Raises:
        ApiError: arguments that are no JSON object, or a tool message that answers no call.
    """
    calls: set[str] = set()
    rendered = []
    for at, message in enumerate(messages):
        if message.role == "tool":
            _check_answers(message, calls, at)
        elif message.tool_calls and message.role != "assistant":
            where = f"messages.{at}.tool_calls"
            text = f"Invalid '{where}': only assistants make tool calls, not {shown(message.role)}"
            raise invalid(where, text)
        calls |= {call.id for call in message.tool_calls or ()}
        rendered.append(_template_message(message, at))
    return tuple(rendered)


def _check_answers(message: Message, calls: set[str], at: int) -> None:
    where = f"messages.{at}.tool_call_id"
    if message.tool_call_id is None:
        text = f"Missing required parameter: '{where}'. It names the tool call that is answered."
        raise ApiError(400, text, param=where, code="missing_required_parameter")
    if message.tool_call_id not in calls:
        text = (
            f"Invalid '{where}': no earlier assistant message has a tool call with the id "
            f"{shown(message.tool_call_id)}"
        )
        raise invalid(where, text)


def _template_message(message: Message, at: int) -> dict[str, Any]:
    # templates know no role "developer"; it is OpenAI's newer name for "system"
    role = "system" if message.role == "developer" else message.role
    optional = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content or message.reasoning,
    }
    rendered: dict[str, Any] = {"role": role, "content": _text(message)}
    rendered |= {key: value for key, value in optional.items() if value is not None}
    if message.tool_calls:
        rendered["tool_calls"] = [
            _template_call(call, f"messages.{at}.tool_calls.{number}")
            for number, call in enumerate(message.tool_calls)
        ]
    return rendered


def _text(message: Message) -> str:
    content = message.content
    if isinstance(content, list):
        return "".join(_part_text(part) for part in content)
    return content or message.refusal or ""


def _part_text(part: ContentPart) -> str:
    return (part.text if part.type == "text" else part.refusal) or ""


def _template_call(call: ToolCall, where: str) -> dict[str, Any]:
    arguments = parse_arguments(call.function.arguments, f"{where}.function.arguments")
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _max_tokens(body: ChatRequest) -> int | None:
    newer, older = body.max_completion_tokens, body.max_tokens
    if newer is not None and older is not None and newer != older:
        text = f"max_tokens is {older} but max_completion_tokens is {newer}; give only one"
        raise invalid("max_tokens", text)
    return older if newer is None else newer


def _logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        text = f"top_logprobs is {body.top_logprobs}, which needs logprobs to be true"
        raise invalid("top_logprobs", text)
    return (body.top_logprobs or 0) if body.logprobs else None


def _tool_use(body: ChatRequest) -> ToolUse:
    tools = tool_specs(body.tools)
    parallel = body.parallel_tool_calls is not False
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        check_known(choice.function.name, tools, "tool_choice.function.name")
        return ToolUse(tools, ToolMode.REQUIRED, choice.function.name, parallel)
    if isinstance(choice, AllowedToolsChoice):
        named = [
            (tool.function.name, f"tool_choice.allowed_tools.tools.{at}.function.name")
            for at, tool in enumerate(choice.allowed_tools.tools)
        ]
        tools = only_named(tools, named)
        return ToolUse(tools, ToolMode(choice.allowed_tools.mode), None, parallel)
    mode = ToolMode(choice or "auto")
    check_any(mode, tools, mode.value)
    return ToolUse(tools, mode, None, parallel)


def tool_specs(tools: Sequence[Tool] | None) -> tuple[ToolSpec, ...]:
    """
    Raises:
        ApiError: two have the same name.
    """
    specs = tuple(
        ToolSpec(
            tool.function.name,
            tool.function.description,
            tool.function.parameters,
            bool(tool.function.strict),
        )
        for tool in tools or ()
    )
    check_names(specs, "function.name")
    return specs


def _thinking(body: ChatRequest) -> Thinking:
    budgets = {body.thinking_budget, body.thinking_token_budget} - {None}
    if len(budgets) > 1:
        text = (
            f"thinking_budget is {body.thinking_budget} but thinking_token_budget is "
            f"{body.thinking_token_budget}; give only one"
        )
        raise invalid("thinking_budget", text)
    effort = body.reasoning_effort
    enabled = body.enable_thinking
    if enabled is None and effort is not None:
        enabled = effort != "none"
    return Thinking(enabled, None if effort == "none" else effort, next(iter(budgets), None))
