"""One row of any known shape -> messages as chat templates read them. Pure functions.

The shapes: OpenAI's ``messages``, ShareGPT's ``conversations``, and prompt/response with
Alpaca's names as well. Knows no template.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dflash_serve.training.data.errors import RowError

Message = dict[str, Any]

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
_OPENAI_ROLES = {"developer": "system", **{r: r for r in ("system", "user", "assistant", "tool")}}
_PAIRS = (("prompt", ("response", "completion")), ("instruction", ("output", "response")))
_KEPT = ("name", "tool_call_id", "tool_calls", "reasoning_content")


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages in order, the given answers included. ``kind`` is the row's label, if any."""

    kind: str
    messages: tuple[Message, ...]


def parse_chat(value: Any) -> Chat:
    """The chat of one row.

    Raises:
        RowError: the row has no known shape, or its messages make no chat.
    """
    if not isinstance(value, Mapping):
        raise RowError("no known shape", "the row is no object")
    if value.get("tools"):
        raise RowError("tools are not supported")
    messages = _messages(value)
    _check(messages)
    return Chat(str(value.get("kind") or ""), tuple(messages))


def _messages(value: Mapping[str, Any]) -> list[Message]:
    if isinstance(value.get("messages"), list):
        return [_openai(message) for message in value["messages"]]
    if isinstance(value.get("conversations"), list):
        system = value.get("system")
        first = [_message("system", system)] if isinstance(system, str) and system else []
        return first + [_sharegpt(turn) for turn in value["conversations"]]
    for prompt, responses in _PAIRS:
        if prompt in value:
            return _pair(value, prompt, responses)
    raise RowError("no known shape", f"keys {', '.join(map(str, value))[:80]}")


def _pair(value: Mapping[str, Any], prompt: str, responses: tuple[str, ...]) -> list[Message]:
    asked = value[prompt]
    if isinstance(asked, list):
        messages = [_openai(message) for message in asked]
    elif isinstance(asked, str):
        extra = value.get("input") if prompt == "instruction" else None
        messages = [_message("user", f"{asked}\n\n{extra}" if extra else asked)]
    else:
        raise RowError("no known shape", f"{prompt} is no text")
    given = next((value[name] for name in responses if value.get(name)), None)
    if isinstance(given, str):
        messages.append(_message("assistant", given))
    elif isinstance(given, list):
        messages += [_openai(message) for message in given]
    return messages


def _openai(message: Any) -> Message:
    if not isinstance(message, Mapping) or "role" not in message:
        raise RowError("no known shape", "a message without a role")
    role = _OPENAI_ROLES.get(str(message["role"]))
    if role is None:
        raise RowError("unknown role", str(message["role"])[:40])
    kept = {key: message[key] for key in _KEPT if message.get(key)}
    return _message(role, _text(message.get("content"))) | kept


def _sharegpt(turn: Any) -> Message:
    if not isinstance(turn, Mapping) or "from" not in turn:
        raise RowError("no known shape", "a turn without from")
    role = _SHAREGPT_ROLES.get(str(turn["from"]))
    if role is None:
        raise RowError("unknown role", str(turn["from"])[:40])
    return _message(role, _text(turn.get("value")))


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _text(content: Any) -> str:
    """Text parts joined by line ends, as the server does."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError("no known shape", "content is no text")
    parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    if not all(isinstance(part, str) for part in parts):
        raise RowError("content other than text")
    return "\n".join(part for part in parts if part is not None)


def _check(messages: list[Message]) -> None:
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        raise RowError("empty", "no user message")
    if "assistant" in roles and roles.index("assistant") < roles.index("user"):
        raise RowError("the chat begins with the assistant")
    for message in messages:
        if message["role"] == "user" and not message["content"].strip():
            raise RowError("empty", "a user message without text")
