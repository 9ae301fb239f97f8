"""What guidellm sends to a server that it measures, request by request.

guidellm itself needs torch, which is too heavy to install here: its bodies are rebuilt.
"""

import json
from typing import Any

import httpx
import pytest

from tests.clients.conftest import MODEL

STREAMED = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
TEXT = "count the stones by the river"
CHAT = {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]}


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", path, json={"model": MODEL} | body) as answer:
        lines = list(answer.iter_lines())
        assert answer.status_code == 200, lines
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(text) for text in data if text != "[DONE]"]


def test_probes(http: httpx.Client) -> None:
    assert http.get("/health").status_code == 200
    assert [entry["id"] for entry in http.get("/v1/models").json()["data"]] == [MODEL]


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        ("/v1/completions", {"prompt": TEXT}, "max_tokens"),
        ("/v1/chat/completions", CHAT, "max_completion_tokens"),
    ],
)
@pytest.mark.parametrize("size", [1, 40])
def test_an_answer_has_the_length_asked_for(
    http: httpx.Client, path: str, body: dict[str, Any], limit: str, size: int
) -> None:
    """Usage grows from event to event up to exactly that length, whatever ends the text."""
    found = events(http, path, body | STREAMED | {limit: size, "stop": None, "ignore_eos": True})
    usages = [event["usage"] for event in found]
    counts = [usage["completion_tokens"] for usage in usages]
    assert counts == sorted(counts)
    assert counts[-1] == size
    assert len({usage["prompt_tokens"] for usage in usages}) == 1
    assert found[-1]["choices"] == []
    reasons = [choice["finish_reason"] for event in found for choice in event["choices"]]
    assert [reason for reason in reasons if reason] == ["length"]


def test_without_streaming(http: httpx.Client) -> None:
    body = {"model": MODEL, "prompt": TEXT, "max_tokens": 33, "stop": None, "ignore_eos": True}
    answer = http.post("/v1/completions", json=body).json()
    assert answer["usage"]["completion_tokens"] == 33
    assert answer["choices"][0]["text"]


def test_responses(http: httpx.Client) -> None:
    part = {"type": "input_text", "text": TEXT}
    body = {
        "input": [{"role": "user", "content": [part]}],
        "stream": True,
        "max_output_tokens": 20,
        "stop": None,
        "ignore_eos": True,
    }
    found = events(http, "/v1/responses", body)
    assert found[-1]["type"] in ("response.completed", "response.incomplete")
    assert found[-1]["response"]["usage"]["output_tokens"] == 20


def test_a_tool_turn(http: httpx.Client) -> None:
    function = {"name": "calculate", "parameters": {"type": "object", "properties": {}}}
    tools = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    found = events(http, "/v1/chat/completions", CHAT | STREAMED | tools)
    deltas = [choice["delta"] for event in found for choice in event["choices"]]
    assert any(delta.get("tool_calls") for delta in deltas)
