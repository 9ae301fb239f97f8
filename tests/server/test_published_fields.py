"""Fields that the published API schemas require of every answer, whatever is asked."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dflash_serve.text.parsers import table
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, make_app, saying, serving

CALL = 'Let me see.<tool_call>{"name": "look", "arguments": {}}</tool_call>'
HELLO: dict[str, Any] = {"model": "fake/model", "messages": [{"role": "user", "content": "hello"}]}
LOOK: dict[str, Any] = {"name": "look", "input_schema": {"type": "object"}}


@pytest.fixture(scope="module")
def engine(tokenizer: ChatTokenizer) -> FakeEngine:
    return FakeEngine(saying(tokenizer, CALL))


@pytest.fixture(scope="module")
def http(engine: FakeEngine, tokenizer: ChatTokenizer) -> Iterator[httpx.Client]:
    app = make_app(engine, tokenizer, markup=table.compose("hermes", "think"))
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_chat_message(http: httpx.Client) -> None:
    message = http.post("/v1/chat/completions", json=HELLO).json()["choices"][0]["message"]
    assert message["annotations"] == []
    assert message["refusal"] is None


def test_message(http: httpx.Client) -> None:
    body = HELLO | {"max_tokens": 400, "tools": [LOOK]}
    message = http.post("/v1/messages", json=body).json()
    text, use = message["content"]
    assert text["citations"] is None
    assert use["caller"] == {"type": "direct"}
    assert {"stop_details": None, "container": None}.items() <= message.items()
    usage = message["usage"]
    assert usage["output_tokens_details"] == {"thinking_tokens": 0}
    assert usage["service_tier"] == "standard"
    assert {"cache_creation", "inference_geo", "server_tool_use"} <= usage.keys()


def test_message_stream(http: httpx.Client) -> None:
    body = HELLO | {"max_tokens": 50, "stream": True}
    lines = http.post("/v1/messages", json=body).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data")]
    deltas = [event for event in events if event["type"] == "message_delta"]
    assert deltas[0]["delta"].keys() >= {"stop_details", "container"}
    assert "server_tool_use" in deltas[0]["usage"]


def test_response_has_penalties(http: httpx.Client) -> None:
    body = {"model": "fake/model", "input": "hello"}
    response = http.post("/v1/responses", json=body).json()
    assert response["presence_penalty"] == response["frequency_penalty"] == 0


def test_response_of_a_fixed_length(http: httpx.Client, engine: FakeEngine) -> None:
    """What load generators send: the answer goes on at the model's own end."""
    body = {"model": "fake/model", "input": "hello", "max_output_tokens": 5}
    answer = http.post("/v1/responses", json=body | {"stop": None, "ignore_eos": True})
    assert answer.status_code == 200
    assert engine.requests[-1].stop_tokens == frozenset()
    refused = http.post("/v1/responses", json=body | {"stop": ["x"]})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "stop"
