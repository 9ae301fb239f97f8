"""One row of any known shape -> messages as chat templates read them. Pure functions.

The shapes: OpenAI's ``messages``, ShareGPT's ``conversations``, and a prompt with its response
under the usual names of columns. Knows no template.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dflash_serve.measure.errors import RowError

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
_KEPT = ("name", "tool_call_id", "tool_calls", "reasoning_content")
_SYSTEM = ("system", "system_prompt")
_CHATS = ("messages", "conversations")
_PAIRS: dict[str, tuple[str, ...]] = {
    "prompt": ("response", "completion", "chosen"),
    "instruction": ("output", "response"),
    "question": ("answer", "response"),
    "query": ("response", "answer"),
    "problem": ("solution", "answer"),
    "input": ("output",),
}
"""Columns that ask, and for each those that answer it."""

_EXTRAS = {"instruction": ("input", "context"), "question": ("context",)}
"""Columns that add to what one asks: Alpaca's and Dolly's."""


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages in order, the given answers included. ``kind`` is the row's label, if any."""

    kind: str
    messages: tuple[Message, ...]


def parse_chat(value: Any) -> Chat:
    """The chat of one row.

    Raises:
        RowError: the row has no known shape or several, or its messages make no chat.
    """
    if not isinstance(value, Mapping):
        raise RowError("no known shape", "the row is no object")
    if value.get("tools"):
        raise RowError("tools are not supported")
    if value.get("history"):
        raise RowError("a history column is not supported")
    messages = _messages(value)
    _check(messages)
    return Chat(str(value.get("kind") or ""), tuple(messages))


def _messages(value: Mapping[str, Any]) -> list[Message]:
    chat = _only(value, [name for name in _CHATS if isinstance(value.get(name), list)])
    if chat is None:
        messages = _pair(value)
    else:
        read = _openai if chat == "messages" else _sharegpt
        messages = [read(message) for message in value[chat]]
    system = _only(value, [name for name in _SYSTEM if value.get(name)])
    if system is None:
        return messages
    if not isinstance(value[system], str):
        raise RowError("no known shape", f"{system} is no text")
    first = _message("system", value[system])
    if not messages or messages[0]["role"] != "system":
        return [first, *messages]
    if messages[0] != first:
        raise RowError("read in two ways", f"{system} and a system message")
    return messages


def _pair(value: Mapping[str, Any]) -> list[Message]:
    """What is asked and, where it is there, the given answer."""
    asking = [name for name in _PAIRS if value.get(name)]
    extras = [name for prompt in asking for name in _EXTRAS.get(prompt, ()) if value.get(name)]
    prompt = _only(value, [name for name in asking if name not in extras])
    if prompt is None and not _PAIRS.keys().isdisjoint(value):
        raise RowError("empty", "a user message without text")
    if prompt is None:
        raise RowError("no known shape", f"keys {', '.join(map(str, value))[:80]}")
    asked = _part(value, prompt, "user")
    for name in extras:
        if not isinstance(value[prompt], str) or not isinstance(value[name], str):
            raise RowError("no known shape", f"{prompt} or {name} is no text")
        asked[0]["content"] += f"\n\n{value[name]}"
    answers = [name for name in _PAIRS[prompt] if value.get(name)]
    if prompt == "problem":  # of a worked solution and its bare result, the solution
        answers = answers[:1]
    answer = _only(value, answers)
    given = [] if answer is None else _part(value, answer, "assistant")
    if given[: len(asked)] == asked:  # chosen: some files repeat the prompt there
        return given
    if given and given[0]["role"] != "assistant":
        raise RowError("read in two ways", f"{answer} begins otherwise than {prompt}")
    return asked + given


def _part(value: Mapping[str, Any], name: str, role: str) -> list[Message]:
    """A column that holds a text or messages."""
    part = value[name]
    if isinstance(part, str):
        return [_message(role, part)]
    if isinstance(part, list):
        return [_openai(message) for message in part]
    raise RowError("no known shape", f"{name} is no text")


def _only(value: Mapping[str, Any], names: list[str]) -> str | None:
    """The one column, None for no column; those that say the same are one."""
    if any(value[name] != value[names[0]] for name in names[1:]):
        raise RowError("read in two ways", " and ".join(names))
    return names[0] if names else None


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
