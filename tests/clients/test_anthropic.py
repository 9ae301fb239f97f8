"""Anthropic's Python client at ``/v1/messages``."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.clients.conftest import MODEL
from tests.clients.test_openai import STEPS, Answer

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
PARIS = 'call get_weather({"city": "Paris"})'
THINKING: dict[str, Any] = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="-", timeout=60, max_retries=0) as client:
        yield client


def asking(text: Any, **options: Any) -> dict[str, Any]:
    defaults = {"model": MODEL, "max_tokens": 400}
    return defaults | {"messages": [{"role": "user", "content": text}]} | options


def test_message_and_its_stream_agree(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**asking("Tell me a story", system="Be brief."))
    (block,) = whole.content
    assert block.text.startswith("Once upon a time a fox")
    assert whole.stop_reason == "end_turn"
    with client.messages.stream(**asking("Tell me a story", system="Be brief.")) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(texts) == block.text
    assert len(texts) > 5
    assert final.stop_reason == "end_turn"
    assert final.usage == whole.usage


@pytest.mark.parametrize("stream", [False, True])
def test_tool_use_and_its_result(client: anthropic.Anthropic, stream: bool) -> None:
    asked = asking(PARIS, tools=[WEATHER])
    if stream:
        with client.messages.stream(**asked) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**asked)
    assert message.stop_reason == "tool_use"
    (use,) = [block for block in message.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "21 degrees"}
    turns = [
        *asked["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(**asked | {"messages": turns})
    assert answer.content[0].text == "The result is 21 degrees."


@pytest.mark.parametrize(
    ("choice", "used"),
    [
        ({"type": "auto"}, 0),
        ({"type": "none"}, 0),
        ({"type": "any"}, 1),
        ({"type": "tool", "name": "get_weather"}, 1),
        ({"type": "any", "disable_parallel_tool_use": True}, 1),
    ],
)
def test_tool_choice(client: anthropic.Anthropic, choice: dict[str, Any], used: int) -> None:
    message = client.messages.create(**asking("Hello!", tools=[WEATHER], tool_choice=choice))
    uses = [block for block in message.content if block.type == "tool_use"]
    assert len(uses) == used
    assert all(isinstance(use.input["city"], str) for use in uses)


@pytest.mark.parametrize("stream", [False, True])
def test_thinking(client: anthropic.Anthropic, stream: bool) -> None:
    asked = asking("Think, and say: done", thinking=THINKING, max_tokens=2000)
    if stream:
        with client.messages.stream(**asked) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**asked)
    thought, text = message.content
    assert (thought.type, text.type) == ("thinking", "text")
    assert "I weigh it" in thought.thinking
    assert text.text == "done"
    turns = [
        *asked["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": "say: more"},
    ]
    more = client.messages.create(**asked | {"messages": turns})
    assert more.content[-1].text == "more"
    silent = client.messages.create(**asked | {"thinking": {"type": "disabled"}})
    assert [block.type for block in silent.content] == ["text"]


def test_adaptive_thinking_and_effort(client: anthropic.Anthropic) -> None:
    asked = asking("Think, and say: done", thinking={"type": "adaptive"}, max_tokens=2000)
    for effort in ("low", "high"):
        message = client.messages.create(**asked, output_config={"effort": effort})
        assert [block.type for block in message.content] == ["thinking", "text"]


def test_structured_output(client: anthropic.Anthropic) -> None:
    for text in (f"Give me {STEPS}", "Hello!"):
        message = client.messages.parse(**asking(text), output_format=Answer)
        assert isinstance(message.parsed_output, Answer)
    with client.messages.stream(**asking(f"Give me {STEPS}"), output_format=Answer) as stream:
        assert stream.get_final_message().parsed_output == Answer.model_validate_json(STEPS)


def test_limits_and_stop_sequences(client: anthropic.Anthropic) -> None:
    short = client.messages.create(**asking("Tell me a story", max_tokens=5))
    assert short.stop_reason == "max_tokens"
    stopped = client.messages.create(**asking("Tell me a story", stop_sequences=["forest"]))
    assert stopped.stop_reason == "stop_sequence"
    assert stopped.stop_sequence == "forest"
    assert stopped.content[0].text.endswith("edge of a ")


def test_counted_tokens_are_those_used(client: anthropic.Anthropic) -> None:
    asked = asking(PARIS, tools=[WEATHER], system="Be brief.")
    used = client.messages.create(**asked).usage.input_tokens
    del asked["max_tokens"]
    assert client.messages.count_tokens(**asked).input_tokens == used


@pytest.mark.parametrize(
    "fields",
    [
        {"stop_sequences": [5]},
        {"max_tokens": 0},
        {"tools": [{"name": "a b", "input_schema": {}}]},
        {"tool_choice": {"type": "tool", "name": "nobody"}, "tools": [WEATHER]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
    ],
)
def test_bad_requests(client: anthropic.Anthropic, fields: dict[str, Any]) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**asking("hello") | fields)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert next(iter(fields)) in body["error"]["message"]


def test_unknown_model(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**asking("hello", model="nobody"))
