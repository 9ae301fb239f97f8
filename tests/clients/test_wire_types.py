"""Every answer and every event against the SDKs' own types: nothing missing, nothing unknown.

The SDKs build these types without looking; here they are validated, strictly.
"""

from typing import Any

import anthropic.types
import httpx
import openai.types
import pytest
from openai.types import responses as openai_responses
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, TypeAdapter

from tests.clients.conftest import MODEL
from tests.clients.test_anthropic import THINKING
from tests.clients.test_anthropic import WEATHER as ANTHROPIC_WEATHER
from tests.clients.test_openai import PARIS, ROME, STEPS, WEATHER, Answer

EXTENSIONS = {"reasoning", "reasoning_content", "stop_reason"}
"""Fields that this server adds, as vLLM and others do."""
UNTYPED = {"store", "presence_penalty", "frequency_penalty", "name"}
"""Fields of a response that OpenAI sends and its own types, or some versions of them, lack."""
SCHEMA = {"name": "answer", "strict": True, "schema": Answer.model_json_schema()}
TOOL = {"type": "function", **WEATHER["function"]}


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


CHATS = {
    "text": chat("say: fox", n=2),
    "length": chat("Tell me a story", max_tokens=3),
    "tools": chat(f"{PARIS} and {ROME}", tools=[WEATHER]),
    "required": chat("Hello!", tools=[WEATHER], tool_choice="required"),
    "reasoning": chat("Think, and say: fox"),
    "logprobs": chat("say: fox", logprobs=True, top_logprobs=2),
    "schema": chat(
        f"Give me {STEPS}", response_format={"type": "json_schema", "json_schema": SCHEMA}
    ),
}
TEXTS = {
    "text": {"prompt": "Once upon a time a", "max_tokens": 4},
    "several": {"prompt": ["One,", "Two,"], "n": 2, "max_tokens": 4, "echo": True},
    "logprobs": {"prompt": "One,", "max_tokens": 4, "logprobs": 2},
}
INPUTS = {
    "text": {"input": "say: fox", "instructions": "Be brief.", "metadata": {"a": "b"}},
    "length": {"input": "Tell me a story", "max_output_tokens": 16},
    "tools": {"input": f"{PARIS} and {ROME}", "tools": [TOOL]},
    "named": {
        "input": "Hello!",
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "get_weather"},
    },
    "reasoning": {"input": "Think, and say: fox", "reasoning": {"effort": "low"}},
    "schema": {
        "input": f"Give me {STEPS}",
        "text": {"format": {"type": "json_schema", **SCHEMA}},
    },
}
MESSAGES = {
    "text": chat("say: fox", max_tokens=50, stop_sequences=["x"]),
    "length": chat("Tell me a story", max_tokens=3),
    "tools": chat(f"{PARIS} and {ROME}", tools=[ANTHROPIC_WEATHER], max_tokens=200),
    "thinking": chat("Think, and say: fox", thinking=THINKING, max_tokens=2000),
}
DOORS: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", ChatCompletion, ChatCompletionChunk, CHATS),
    "completions": (
        "/v1/completions",
        openai.types.Completion,
        openai.types.Completion,
        TEXTS,
    ),
    "responses": (
        "/v1/responses",
        openai_responses.Response,
        openai_responses.ResponseStreamEvent,
        INPUTS,
    ),
    "messages": (
        "/v1/messages",
        anthropic.types.Message,
        anthropic.types.RawMessageStreamEvent,
        MESSAGES,
    ),
}
CASES = [(door, case) for door, (_, _, _, cases) in DOORS.items() for case in cases]


@pytest.mark.parametrize(("door", "case"), CASES)
def test_whole_answers(http: httpx.Client, door: str, case: str) -> None:
    path, whole, _, cases = DOORS[door]
    answer = http.post(path, json={"model": MODEL} | cases[case])
    assert answer.status_code == 200, answer.text
    check(whole, answer.text)


@pytest.mark.parametrize(("door", "case"), CASES)
def test_events(http: httpx.Client, door: str, case: str) -> None:
    path, _, event, cases = DOORS[door]
    more = {"stream": True}
    if door in ("chat", "completions"):
        more |= {"stream_options": {"include_usage": True}}  # type: ignore[dict-item]
    lines = streamed(http, path, {"model": MODEL} | cases[case] | more)
    assert len(lines) > 2
    for line in lines:
        if line not in ("[DONE]", '{"type":"ping"}', '{"type": "ping"}'):
            check(event, unfinished(line) if door == "completions" else line)


def test_models_and_errors(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    for entry in listed["data"]:
        openai.types.Model.model_validate(entry, strict=True)
    error = http.post("/v1/chat/completions", json={}).json()["error"]
    parsed = openai.types.ErrorObject.model_validate(error, strict=True)
    assert not parsed.model_extra
    shape = http.post("/v1/messages", json={"model": MODEL}).json()
    assert anthropic.types.ErrorResponse.model_validate(shape, strict=True).error.message


def streamed(http: httpx.Client, path: str, body: dict[str, Any]) -> list[str]:
    with http.stream("POST", path, json=body) as answer:
        lines = list(answer.iter_lines())
        assert answer.status_code == 200, lines
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def unfinished(line: str) -> str:
    """A text chunk whose null reasons are filled in: OpenAI sends null, its own type has none."""
    return line.replace('"finish_reason":null', '"finish_reason":"stop"')


def check(kind: Any, text: str) -> None:
    found = TypeAdapter(kind).validate_json(text, strict=True)
    unknown = set(extras(found)) - EXTENSIONS - UNTYPED
    assert not unknown, text


def extras(value: Any) -> list[str]:
    """The fields, at any depth, that the SDK's types do not know."""
    if isinstance(value, list):
        return [name for item in value for name in extras(item)]
    if not isinstance(value, BaseModel):
        return []
    found = list(value.model_extra or {})
    for name in type(value).model_fields:
        found += extras(getattr(value, name, None))
    return found
