"""What the forced model wants to answer: a pure function of the prompt's text.

Knows no tokens: `forced` follows these replies token by token.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

STORY = (
    "Once upon a time a fox lived at the edge of a forest. Every morning you could see it by the "
    "river, counting the stones. One, two, three, four, five. A cat came along and asked why. "
    "The fox said that a river without its stones is only rain, and the cat went home to think. "
)
THOUGHT = "The user asks for something. I weigh it, and then I answer in one go."
_DIRECTIVE = re.compile(r"call (\w[\w-]*)\((\{.*?\}|)\)(?= |\.|$)", re.DOTALL)
_JOKE = {"setup": "Why did the cat sit on the computer?", "punchline": "To watch the mouse."}
_VALUES: dict[str, Any] = {"integer": 3, "number": 1.5, "boolean": True, "null": None}
"""What a schema's scalar types get; strings come from the user's text."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A rendered prompt, read back: the tools and the messages as (role, text)."""

    tools: tuple[Mapping[str, Any], ...]
    turns: tuple[tuple[str, str], ...]

    @property
    def asked(self) -> str:
        """The last message that a user wrote."""
        texts = [text for role, text in self.turns if role == "user" and not _results(text)]
        return texts[-1] if texts else ""

    @property
    def results(self) -> tuple[str, ...]:
        """The results of tools since that message."""
        found: list[str] = []
        for role, text in self.turns:
            answered = _results(text) if role == "user" else []
            found = [*found, *answered] if answered or role == "assistant" else []
        return tuple(found)


def read(prompt: str) -> Chat:
    """The chat behind a prompt of `vocabulary.TEMPLATE`."""
    turns = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", prompt, re.DOTALL)
    listed = re.search(r"<tools>\n(.*?)</tools>", prompt, re.DOTALL)
    lines = listed[1].splitlines() if listed else []
    tools = [json.loads(line) for line in lines if line.startswith("{")]
    return Chat(tuple(tool.get("function", tool) for tool in tools), tuple(turns))


def replies(chat: Chat) -> list[str]:
    """What the model would say, best first; a grammar may rule the first ones out."""
    best = _thoughtful(chat, _best(chat))
    calls = [_markup([_call(tool, chat)]) for tool in chat.tools]
    objects = [_json(value) for value in _objects(chat.asked)]
    return list(dict.fromkeys([*best, *calls, *objects]))


def _thoughtful(chat: Chat, reply: str) -> list[str]:
    """With the reasoning before the reply, where the user wants any."""
    silent = [reply, f"<think>\n\n</think>\n\n{reply}"]
    if re.search(r"\bthink|\breason", chat.asked, re.IGNORECASE):
        return [f"<think>\n{THOUGHT}\n</think>\n\n{reply}", *silent]
    return silent


def _best(chat: Chat) -> str:
    asked, results = chat.asked, chat.results
    stages = [_directives(stage) for stage in re.split(r"\bthen\b", asked)]
    stages = [stage for stage in stages if stage]
    turn = _rounds(chat)
    if turn < len(stages):
        return _markup(stages[turn])
    if results:
        return f"The result is {' and '.join(results)}."
    if said := re.search(r"\bsay: (.*)", asked, re.DOTALL):
        return said[1]
    called = None if stages else _tool_for(asked, chat.tools)
    if called is not None:
        return _markup([_call(called, chat)])
    if "json" in asked.lower():
        return _json(_objects(asked)[0])
    if counted := re.search(r"\bcount to (\d+)", asked, re.IGNORECASE):
        return ", ".join(str(number) for number in range(1, int(counted[1]) + 1))
    if re.search(r"\bstory\b|\bhaiku|\bcount\b", asked, re.IGNORECASE):
        return STORY.strip()
    return f"You said: {asked.strip()[:60]}"


def _rounds(chat: Chat) -> int:
    """How often the model has called tools since the user's last message."""
    rounds = 0
    for role, text in chat.turns:
        if role == "user" and not _results(text):
            rounds = 0
        rounds += role == "assistant" and "<tool_call>" in text
    return rounds


def _results(text: str) -> list[str]:
    return re.findall(r"<tool_response>\n(.*?)\n</tool_response>", text, re.DOTALL)


def _directives(text: str) -> list[tuple[str, Any]]:
    """``call NAME({...})`` as often as it occurs; arguments that are no JSON stay as they are."""
    calls: list[tuple[str, Any]] = []
    for name, arguments in _DIRECTIVE.findall(text):
        try:
            calls.append((name, json.loads(arguments or "{}")))
        except json.JSONDecodeError:
            calls.append((name, arguments))
    return calls


def _tool_for(asked: str, tools: tuple[Mapping[str, Any], ...]) -> Mapping[str, Any] | None:
    """The tool whose name, or any long word of it, the user mentions; the longest name first."""
    said = asked.lower()
    for tool in sorted(tools, key=lambda tool: -len(tool["name"])):
        if tool["name"].lower() in said:
            return tool
    for tool in tools:
        words = [word for word in re.split(r"[_\W]+", tool["name"].lower()) if len(word) > 4]
        if any(word in said for word in words):
            return tool
    return None


def _call(tool: Mapping[str, Any], chat: Chat) -> tuple[str, Any]:
    schema = tool.get("parameters") or {}
    given = _objects(chat.asked)[0]
    if isinstance(given, dict) and set(given) == set(schema.get("required", ["none"])):
        return tool["name"], given
    return tool["name"], _value(schema | {"type": "object"}, schema, _hints(chat.asked))


def _hints(asked: str) -> Iterator[str]:
    """Strings to put into arguments: what is quoted, then what looks like a name, then a word."""
    yield from (one or two for one, two in re.findall(r"'([^']+)'|\"([^\"]+)\"", asked))
    yield from re.findall(r"(?<=[a-z] )[A-Z]\w+(?: [A-Z]\w+)*", asked)
    while True:
        yield "fox"


def _value(schema: Any, root: Mapping[str, Any], hints: Iterator[str]) -> Any:
    """Some value that ``schema`` allows, in the features that the tests use."""
    if not isinstance(schema, Mapping):
        return "fox"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return _value(schema[key][0], root, hints)
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _value((root.get("$defs") or root.get("definitions"))[name], root, hints)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        wanted = schema.get("required", properties)
        names = [*(name for name in properties if name in wanted), *(set(wanted) - {*properties})]
        return {name: _value(properties.get(name), root, hints) for name in names}
    if kind == "array":
        return [_value(schema.get("items"), root, hints)]
    if kind in _VALUES:
        return _VALUES[kind]
    return next(hints)


def _objects(asked: str) -> list[Any]:
    """JSON values that a request for JSON may want: one that it quotes, a joke, named keys."""
    found: list[Any] = []
    for start in (at for at, char in enumerate(asked) if char in "{["):
        try:
            found.append(json.JSONDecoder().raw_decode(asked[start:])[0])
            break
        except json.JSONDecodeError:
            continue
    if "joke" in asked.lower():
        found.append(_JOKE)
    keys = re.findall(r"'(\w+)'", asked)
    return [*found, dict.fromkeys(keys, "fox") or {"answer": "fox"}]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _markup(calls: list[tuple[str, Any]]) -> str:
    """Qwen3's markup of tool calls. Arguments that are a string are written as they are."""
    written = []
    for name, arguments in calls:
        text = arguments if isinstance(arguments, str) else _json(arguments)
        written.append(f'<tool_call>\n{{"name": "{name}", "arguments": {text}}}\n</tool_call>')
    return "\n".join(written)
