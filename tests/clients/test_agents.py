"""Requests in the shape in which coding agents send them: Claude Code and Codex."""

import json
from typing import Any

import httpx
import pytest

from tests.clients.conftest import MODEL

SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "command": {"type": "string", "description": "What to run."},
        "timeout": {"type": "number", "description": "Seconds."},
        "paths": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["command"],
    "additionalProperties": False,
}
MARK = {"cache_control": {"type": "ephemeral"}}
RUN = 'call run_command({"command": "ls"})'


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", path, json={"model": MODEL, "stream": True} | body) as answer:
        lines = list(answer.iter_lines())
        assert answer.status_code == 200, lines
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
    return [json.loads(text) for text in data]


def claude_code(text: str, **fields: Any) -> dict[str, Any]:
    """Marked system blocks, many tools, thinking, metadata and the beta switch of the path."""
    names = ["run_command", *(f"tool_{index}" for index in range(15))]
    return {
        "max_tokens": 4000,
        "system": [
            {"type": "text", "text": "You are an agent."},
            {"type": "text", "text": "Here is the folder: /src.", **MARK},
        ],
        "messages": [{"role": "user", "content": [{"type": "text", "text": text, **MARK}]}],
        "tools": [
            {"name": name, "description": "It does a thing.", "input_schema": SCHEMA}
            for name in names
        ],
        "metadata": {"user_id": "user_1_account__session_2"},
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "temperature": 1,
    } | fields


def test_claude_code(http: httpx.Client) -> None:
    body = claude_code(RUN)
    found = events(http, "/v1/messages?beta=true", body)
    assert found[0]["type"] == "message_start"
    assert found[-1]["type"] == "message_stop"
    parts = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    assert json.loads("".join(part.get("partial_json", "") for part in parts)) == {"command": "ls"}
    use = next(
        event["content_block"]
        for event in found
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use"
    )
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "a.py", "is_error": False}
    body["messages"] += [
        {"role": "assistant", "content": [use | {"input": {"command": "ls"}}]},
        {"role": "user", "content": [result | MARK, {"type": "text", "text": "Go on."}]},
    ]
    answer = http.post("/v1/messages?beta=true", json={"model": MODEL} | body)
    assert answer.status_code == 200, answer.text


def test_claude_code_counts_before_it_asks(http: httpx.Client) -> None:
    body = claude_code("hello")
    counted = {name: body[name] for name in ("system", "messages", "tools", "thinking")}
    answer = http.post("/v1/messages/count_tokens?beta=true", json={"model": MODEL} | counted)
    assert answer.json()["input_tokens"] > 500


def codex(items: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """Everything sent again in each turn, nothing kept by the server."""
    function = {"type": "function", "name": "run_command", "strict": False, "parameters": SCHEMA}
    return {
        "instructions": "You are an agent.",
        "input": items,
        "tools": [function],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "session",
        "text": {"verbosity": "medium"},
    } | fields


def test_codex(http: httpx.Client) -> None:
    parts = [{"type": "input_text", "text": f"Think, then {RUN}"}]
    items: list[dict[str, Any]] = [{"type": "message", "role": "user", "content": parts}]
    found = events(http, "/v1/responses", codex(items))
    assert found[-1]["type"] == "response.completed"
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["reasoning", "function_call"]
    call = done[-1]
    assert json.loads(call["arguments"]) == {"command": "ls"}
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "a.py"}
    again = events(http, "/v1/responses", codex([*items, *done, output]))
    text = "".join(e["delta"] for e in again if e["type"] == "response.output_text.delta")
    assert text == "The result is a.py."


@pytest.mark.parametrize("effort", ["minimal", "low", "high"])
def test_codex_efforts(http: httpx.Client, effort: str) -> None:
    body = codex([{"role": "user", "content": "say: fine"}], reasoning={"effort": effort})
    assert events(http, "/v1/responses", body)[-1]["type"] == "response.completed"
