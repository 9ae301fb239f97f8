"""A replay of Open WebUI's traffic: what its backend sends for one user's chat.

Its builtin tools are rebuilt in number, size and schema features; the words are not its own.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.clients.conftest import MODEL, all_slots_free, eventually

TOOLS = 36
_SENTENCE = "Looks through what the user has stored and gives back the entries that match best. "


def _parameter(index: int) -> dict[str, Any]:
    """One parameter; together they use what the builtin tools' schemas use."""
    text = f"Parameter {index} of the function: what it looks for or how many it gives back."
    kinds: list[dict[str, Any]] = [
        {"type": "string"},
        {"type": "integer", "default": 5},
        {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        {"type": "array", "items": {"type": "string"}},
        {"type": "boolean", "default": False},
        {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        {"type": "array", "items": {"type": "object", "additionalProperties": True}},
    ]
    return {"description": text} | kinds[index % len(kinds)]


def _tool(index: int) -> dict[str, Any]:
    names = [f"argument_{at}" for at in range(index % 6)]
    properties = {name: _parameter(index + at) for at, name in enumerate(names)}
    required = [name for name, schema in properties.items() if "default" not in schema]
    function = {
        "name": f"builtin_function_{index:02}",
        "description": _SENTENCE * 3,
        "parameters": {"type": "object", "properties": properties, "required": required},
    }
    return {"type": "function", "function": function}


BUILTIN = [_tool(index) for index in range(TOOLS)]


def chat(messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """A message in the chat window: streamed, all tools offered."""
    return {"stream": True, "model": MODEL, "messages": messages, "tools": BUILTIN} | fields


def task(name: str, conversation: str, wanted: str) -> dict[str, Any]:
    """A title, tags or follow-up questions: one long instruction, not streamed."""
    rules = "### Task:\nWrite what is asked for below, in the chat's main language.\n" * 12
    text = f"{rules}### Wanted: {name}\n### Output:\nJSON: {wanted}\n### Chat:\n{conversation}"
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": False}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def read(http: httpx.Client, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The choices of a streamed answer, one event after the other."""
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield from json.loads(line.removeprefix("data: "))["choices"]


def text_of(http: httpx.Client, body: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in read(http, body))


def test_connection_check(http: httpx.Client) -> None:
    """What the settings page asks before it shows the model."""
    listed = http.get("/v1/models", headers={"Authorization": "Bearer none"}).json()
    assert [entry["id"] for entry in listed["data"]] == [MODEL]


def test_chat_with_all_tools(http: httpx.Client) -> None:
    assert len(json.dumps(BUILTIN)) > 20_000
    assert text_of(http, chat([user("say: hello there")])) == "hello there"


def test_a_tool_is_called_and_answered(http: httpx.Client) -> None:
    first = user('call builtin_function_03({"argument_0": ["a"]})')
    deltas = [choice["delta"] for choice in read(http, chat([first]))]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or []]
    arguments = "".join(call["function"].get("arguments") or "" for call in calls)
    assert json.loads(arguments) == {"argument_0": ["a"]}
    call = {
        "id": calls[0]["id"],
        "type": "function",
        "index": 0,
        "function": {"name": calls[0]["function"]["name"], "arguments": arguments},
    }
    messages = [
        first,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": '{"found": 2}'},
    ]
    assert text_of(http, chat(messages)) == 'The result is {"found": 2}.'


def test_tasks_beside_a_running_chat(http: httpx.Client) -> None:
    wanted = {
        "title": '{"title": "A fox"}',
        "tags": '{"tags": ["fox", "river"]}',
        "follow-ups": '{"follow_ups": ["Why?", "And then?"]}',
    }
    with ThreadPoolExecutor(4) as pool:
        story = pool.submit(text_of, http, chat([user("count to 400")]))
        bodies = [task(name, "USER: hello", text) for name, text in wanted.items()]
        answers = list(pool.map(lambda body: http.post("/v1/chat/completions", json=body), bodies))
    for answer, text in zip(answers, wanted.values(), strict=True):
        assert answer.json()["choices"][0]["message"]["content"] == text
    assert story.result().endswith("399, 400")


def test_the_stop_button_frees_the_slot(http: httpx.Client) -> None:
    """The backend closes the connection in mid-stream."""
    stream = read(http, chat([user("count to 5000")]))
    for _ in range(5):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    eventually(lambda: all_slots_free(http))


def test_regenerated_and_edited(http: httpx.Client) -> None:
    asked = [user("say: one")]
    first = text_of(http, chat(asked))
    assert text_of(http, chat(asked)) == first
    talked = [*asked, {"role": "assistant", "content": first}, user("say: two")]
    assert text_of(http, chat(talked)) == "two"
    edited = [user("say: other"), {"role": "assistant", "content": "other"}, user("say: three")]
    assert text_of(http, chat(edited)) == "three"


def test_continued_answer(http: httpx.Client) -> None:
    """The Continue button sends a chat that ends with the assistant's unfinished words."""
    begun = {"role": "assistant", "content": "Once upon a time a fox"}
    assert "lived at the edge" in text_of(http, chat([user("Tell me a story"), begun]))


def test_a_chat_beyond_the_context_goes_on_after_an_edit(http: httpx.Client) -> None:
    long = [user("the cat and the fox " * 12_000)]
    refused = http.post("/v1/chat/completions", json=chat(long))
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].endswith(".") or "tokens" in error["message"]
    assert text_of(http, chat([user("say: short again")])) == "short again"


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.0, "seed": 1},
        {"frequency_penalty": 0.1, "presence_penalty": 0.1, "repeat_penalty": None},
        {"max_tokens": 128, "stop": ["###"], "reasoning_effort": "medium"},
        {"logit_bias": {"5": -100}},
        {"stream_options": {"include_usage": True}},
        {"response_format": {"type": "text"}},
        {"user": "someone"},
    ],
)
def test_advanced_parameters(http: httpx.Client, params: dict[str, Any]) -> None:
    body = chat([user("say: fine")]) | params
    body.pop("repeat_penalty", None)
    assert text_of(http, body) == "fine"
