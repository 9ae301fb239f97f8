"""litellm, which many tools put between themselves and a server."""

import json
from typing import Any

import litellm
import pytest
from pydantic import BaseModel

from tests.clients.conftest import MODEL
from tests.clients.test_openai import PARIS, STEPS, WEATHER, Answer


class Door(BaseModel):
    """How litellm is pointed at a door."""

    model: str
    api_base: str
    api_key: str = "-"


@pytest.fixture(params=["openai", "hosted_vllm", "anthropic"])
def door(request: pytest.FixtureRequest, url: str) -> dict[str, Any]:
    base = url if request.param == "anthropic" else f"{url}/v1"
    return Door(model=f"{request.param}/{MODEL}", api_base=base).model_dump()


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_text_and_stream_agree(door: dict[str, Any]) -> None:
    asked = {"messages": user("Tell me a story"), "max_tokens": 400, **door}
    whole = litellm.completion(**asked)
    text = whole.choices[0].message.content
    assert text.startswith("Once upon a time a fox")
    chunks = list(litellm.completion(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert whole.usage.completion_tokens > 20


def test_tools_and_their_results(door: dict[str, Any]) -> None:
    asked = {"tools": [WEATHER], "max_tokens": 400, **door}
    message = litellm.completion(messages=user(PARIS), **asked).choices[0].message
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
    answer = litellm.completion(messages=[*user(PARIS), message.model_dump(), result], **asked)
    assert answer.choices[0].message.content == "The result is 21 degrees."
    chunks = list(litellm.completion(messages=user(PARIS), stream=True, **asked))
    rebuilt = litellm.stream_chunk_builder(chunks)
    (streamed,) = rebuilt.choices[0].message.tool_calls
    assert json.loads(streamed.function.arguments) == {"city": "Paris"}


def test_structured_output(url: str) -> None:
    answer = litellm.completion(
        model=f"hosted_vllm/{MODEL}",
        api_base=f"{url}/v1",
        messages=user(f"Give me {STEPS}"),
        response_format=Answer,
    )
    assert Answer.model_validate_json(answer.choices[0].message.content).verdict == "right"


def test_reasoning(url: str) -> None:
    asked = {"model": f"hosted_vllm/{MODEL}", "api_base": f"{url}/v1"}
    message = litellm.completion(messages=user("Think, and say: done"), **asked).choices[0].message
    assert message.content == "done"
    assert "I weigh it" in message.reasoning_content


def test_text_completion(url: str) -> None:
    asked = {"model": f"text-completion-openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "-"}
    answer = litellm.text_completion(prompt="Once upon a time a", max_tokens=6, **asked)
    assert answer.choices[0].text.startswith(" fox")


def test_responses(url: str) -> None:
    answer = litellm.responses(
        model=f"openai/{MODEL}", api_base=f"{url}/v1", api_key="-", input="say: fox"
    )
    assert answer.output[-1].content[0].text == "fox"


def test_errors_keep_their_class(door: dict[str, Any]) -> None:
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(messages=user("fox " * 40_000), max_tokens=10, **door)
