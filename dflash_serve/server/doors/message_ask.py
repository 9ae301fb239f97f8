"""Anthropic's request -> `Ask`. Pure.

Knows nothing of tokenizers, engines or sockets.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dflash_serve.engine.types import SamplingParams
from dflash_serve.server import intake
from dflash_serve.server.ask import (
    Ask,
    ChatPrompt,
    FormatKind,
    OutputFormat,
    Thinking,
    ToolMode,
    ToolUse,
)
from dflash_serve.server.doors.tool_choice import check_any, check_known, doubled
from dflash_serve.server.errors import invalid, shown
from dflash_serve.server.handling import Handling
from dflash_serve.server.prompts import encoded, prompt_tokens
from dflash_serve.server.protocol.messages import (
    AssistantTurn,
    CountRequest,
    MessagesRequest,
    RedactedThinkingBlock,
    SystemTurn,
    TextBlock,
    ThinkingBlock,
    TokenCount,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UserTurn,
)
from dflash_serve.text.parsers.base import ToolSpec

_MODES = {
    "auto": ToolMode.AUTO,
    "none": ToolMode.NONE,
    "any": ToolMode.REQUIRED,
    "tool": ToolMode.REQUIRED,
}


@dataclass(frozen=True, slots=True)
class MessageDelivery:
    """How the client wants to get the answer. ``omitted``: its reasoning without the text."""

    stream: bool
    thinking: bool
    omitted: bool


def read_message(data: bytes, handling: Handling) -> tuple[Ask, MessageDelivery]:
    """The body as an `Ask` whose prompt is encoded.

    Raises:
        ApiError: naming the field and what is wrong with it.
    """
    body, facts = intake.parse(data, MessagesRequest), handling.facts
    intake.check_model(body.model, facts)
    sampling = intake.sampling(
        facts, temperature=body.temperature, top_p=body.top_p, top_k=body.top_k
    )
    omitted = body.thinking is not None and body.thinking.display == "omitted"
    delivery = MessageDelivery(bool(body.stream), wants_thinking(body), omitted)
    return encoded(message_ask(body, sampling), facts, handling.room), delivery


def count_message(data: bytes, handling: Handling) -> str:
    """The answer's JSON: how many tokens the body's prompt has.

    Raises:
        ApiError: naming the field and what is wrong with it.
    """
    body = intake.parse(data, CountRequest)
    intake.check_model(body.model, handling.facts)
    count = len(prompt_tokens(count_ask(body), handling.facts))
    return TokenCount(input_tokens=count).json_text()


def message_ask(body: MessagesRequest, sampling: SamplingParams) -> Ask:
    """What the model is asked for.

    Raises:
        ApiError: naming the field and what is wrong with it.
    """
    return Ask(
        prompt=_prompt(body),
        sampling=sampling,
        max_tokens=body.max_tokens,
        stop=tuple(body.stop_sequences or ()),
        tools=_tools(body),
        format=_format(body),
        thinking=_thinking(body),
    )


def count_ask(body: CountRequest) -> Ask:
    """The same prompt, to be counted and not answered."""
    return Ask(
        prompt=_prompt(body),
        sampling=SamplingParams(),
        tools=_tools(body),
        thinking=_thinking(body),
    )


def wants_thinking(body: CountRequest) -> bool:
    """Whether reasoning is switched on: unlike in OpenAI's doors, not unless it is asked for."""
    return body.thinking is not None and body.thinking.type != "disabled"


def _prompt(body: CountRequest) -> ChatPrompt:
    _check_order(body.messages)
    turns = list(body.messages)
    if system := _text(body.system):
        turns.insert(0, SystemTurn(role="system", content=system))
    # consecutive turns of one role are one turn
    groups = itertools.groupby(turns, key=lambda turn: turn.role)
    return ChatPrompt(tuple(message for _, group in groups for message in _turn(list(group))))


def _turn(turns: list[Turn]) -> Iterator[dict[str, Any]]:
    first = turns[0]
    if isinstance(first, SystemTurn):
        texts = [_text(turn.content) for turn in turns if isinstance(turn, SystemTurn)]
        yield {"role": "system", "content": "\n\n".join(texts)}
        return
    blocks = [block for turn in turns for block in _blocks(turn)]
    yield from [_assistant(blocks)] if isinstance(first, AssistantTurn) else _user(blocks)


def _blocks(turn: Turn) -> Iterable[Any]:
    if isinstance(turn.content, str):
        return [TextBlock(type="text", text=turn.content)]
    return turn.content


def _user(blocks: Iterable[TextBlock | ToolResultBlock]) -> Iterator[dict[str, Any]]:
    """Tool results are messages of their own, in their places between the texts."""
    for is_text, group in itertools.groupby(blocks, key=lambda b: isinstance(b, TextBlock)):
        if is_text:
            text = "".join(block.text for block in group if isinstance(block, TextBlock))
            yield {"role": "user", "content": text}
            continue
        for block in group:
            assert isinstance(block, ToolResultBlock)
            prefix = "Error: " if block.is_error else ""
            content = prefix + _text(block.content)
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}


def _assistant(
    blocks: Iterable[TextBlock | ToolUseBlock | ThinkingBlock | RedactedThinkingBlock],
) -> dict[str, Any]:
    text, reasoning, calls = "", "", []
    for block in blocks:
        if isinstance(block, TextBlock):
            text += block.text
        elif isinstance(block, ThinkingBlock):
            reasoning += block.thinking
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": block.input}
            calls.append({"id": block.id, "type": "function", "function": function})
    message: dict[str, Any] = {"role": "assistant", "content": text}
    message |= {"reasoning_content": reasoning} if reasoning else {}
    return message | ({"tool_calls": calls} if calls else {})


def _check_order(turns: list[Turn]) -> None:
    """Results follow their calls, and the answer is the assistant's to begin."""
    called: set[str] = set()
    for at, turn in enumerate(turns):
        for place, block in enumerate(_blocks(turn)):
            if isinstance(block, ToolUseBlock):
                called.add(block.id)
            elif isinstance(block, ToolResultBlock) and block.tool_use_id not in called:
                param = f"messages.{at}.content.{place}.tool_use_id"
                raise invalid(
                    param,
                    f"'{param}' is {shown(block.tool_use_id)}, but no tool_use block before it "
                    "has that id",
                )
    if not isinstance(turns[-1], UserTurn):
        message = (
            "The last message must be of role 'user': this server does not continue an answer "
            f"that was begun, but it is of role '{turns[-1].role}'"
        )
        raise invalid(f"messages.{len(turns) - 1}.role", message)


def _tools(body: CountRequest) -> ToolUse:
    tools = tuple(_tool(tool) for tool in body.tools or ())
    second = doubled(tools)
    if second is not None:
        message = f"'tools' has two tools with the name {shown(tools[second].name)}"
        raise invalid("tools", message)
    choice = body.tool_choice
    if choice is None:
        return ToolUse(tools)
    mode = _MODES[choice.type]
    only = choice.name if choice.type == "tool" else None
    if choice.type == "tool" and choice.name is None:
        raise invalid("tool_choice.name", "Missing required parameter: 'tool_choice.name'")
    check_any(mode, tools, choice.type)
    if only is not None:
        check_known(only, tools, "tool_choice.name")
    return ToolUse(tools, mode, only, parallel=not choice.disable_parallel_tool_use)


def _tool(tool: Tool) -> ToolSpec:
    return ToolSpec(tool.name, tool.description, tool.input_schema, strict=bool(tool.strict))


def _format(body: CountRequest) -> OutputFormat | None:
    newer = body.output_config.format if body.output_config else None
    if newer is not None and body.output_format is not None:
        message = "Give the format in 'output_config.format' or in 'output_format', not in both"
        raise invalid("output_format", message)
    form = newer or body.output_format
    if form is None:
        return None
    param = "output_format" if newer is None else "output_config.format"
    return OutputFormat(FormatKind.JSON_SCHEMA, form.output_schema, param)


def _thinking(body: CountRequest) -> Thinking:
    effort = body.output_config.effort if body.output_config else None
    config = body.thinking
    if config is None or config.type == "disabled":
        return Thinking(enabled=False, effort=effort)
    if config.type == "enabled" and config.budget_tokens is None:
        param = "thinking.budget_tokens"
        raise invalid(param, f"Missing required parameter: '{param}'")
    return Thinking(enabled=True, effort=effort, budget=config.budget_tokens)


def _text(content: str | list[TextBlock] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(block.text for block in content)
