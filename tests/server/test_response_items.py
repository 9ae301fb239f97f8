"""What responses are made of, without a server: items, what is kept, events."""

from typing import Any

import pytest

from dflash_serve.engine.types import SamplingParams, Usage
from dflash_serve.server.ask import ChatPrompt, Thinking, ToolMode
from dflash_serve.server.deltas import EndDelta, TextDelta
from dflash_serve.server.doors.response_ask import begun_response, response_ask
from dflash_serve.server.doors.response_events import ResponseWriter
from dflash_serve.server.doors.response_items import earlier_items, own_items, stored
from dflash_serve.server.doors.response_store import ResponseStore
from dflash_serve.server.protocol.responses import ResponsesRequest

ASKED: dict[str, Any] = {"model": "fake/model", "input": "hello"}
LOOK: dict[str, Any] = {"type": "function", "name": "look", "parameters": {"type": "object"}}


def messages(**fields: Any) -> Any:
    """The conversation as templates read it."""
    body = ResponsesRequest.model_validate(ASKED | fields)
    store = ResponseStore(10, 10**6)
    prompt = response_ask(body, (), own_items(body, store), SamplingParams()).prompt
    assert isinstance(prompt, ChatPrompt)
    return list(prompt.messages)


def test_an_event_stays_as_it_was() -> None:
    body = ResponsesRequest.model_validate(ASKED)
    response = begun_response(body, "resp_1", 1, "m", SamplingParams())
    writer = ResponseWriter(response, summary=False)
    events = [*writer.begin(), *writer.push(TextDelta(0, "hello"))]
    before = [event.json_text() for event in events]
    writer.push(TextDelta(0, " world"))
    writer.push(EndDelta(0, "length", Usage()))
    assert [event.json_text() for event in events] == before


def test_items_as_templates_read_them() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"at": 1}'}
    items = [
        {"type": "message", "role": "developer", "content": "No jokes."},
        {"role": "user", "content": [{"type": "input_text", "text": t} for t in ("one", " two")]},
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "See."}]},
        call,
        {"type": "function_call_output", "call_id": "c", "output": "a wall"},
    ]
    function = {"name": "look", "arguments": {"at": 1}}
    assert messages(input=items, instructions="Be brief.") == [
        {"role": "system", "content": "Be brief.\n\nNo jokes."},
        {"role": "user", "content": "one two"},
        {
            "role": "assistant",
            "content": "See.",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "a wall"},
    ]


@pytest.mark.parametrize(
    ("choice", "mode", "only", "names"),
    [
        (None, ToolMode.AUTO, None, ["look", "leap"]),
        ("required", ToolMode.REQUIRED, None, ["look", "leap"]),
        ("none", ToolMode.NONE, None, ["look", "leap"]),
        ({"type": "function", "name": "leap"}, ToolMode.REQUIRED, "leap", ["look", "leap"]),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "leap"}],
            },
            ToolMode.REQUIRED,
            None,
            ["leap"],
        ),
    ],
)
def test_tool_choice(choice: Any, mode: ToolMode, only: Any, names: list[str]) -> None:
    tools = [LOOK, LOOK | {"name": "leap"}]
    fields = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False}
    body = ResponsesRequest.model_validate(ASKED | fields)
    use = response_ask(body, (), own_items(body, ResponseStore(1, 1)), SamplingParams()).tools
    assert (use.mode, use.only, use.parallel) == (mode, only, False)
    assert [tool.name for tool in use.tools] == names


@pytest.mark.parametrize(
    ("effort", "thinking"),
    [(None, Thinking()), ("none", Thinking(False)), ("low", Thinking(True, "low"))],
)
def test_reasoning_effort(effort: str | None, thinking: Thinking) -> None:
    body = ResponsesRequest.model_validate(ASKED | {"reasoning": {"effort": effort}})
    ask = response_ask(body, (), own_items(body, ResponseStore(1, 1)), SamplingParams())
    assert ask.thinking == thinking


def _entry(name: str, text: str, *, before: Any = ()) -> Any:
    body = ResponsesRequest.model_validate(ASKED | {"input": text})
    own = own_items(body, ResponseStore(1, 1))
    return stored(begun_response(body, name, 1, "m", SamplingParams()), before, own)


def test_the_store_is_bounded_in_number() -> None:
    store = ResponseStore(2, 10**6)
    for name in "ab":
        store.add(_entry(name, "x"))
    assert store.get("a") is not None  # now b is the least used
    store.add(_entry("c", "x"))
    assert [store.get(name) is not None for name in "abc"] == [True, False, True]


def test_the_store_is_bounded_in_bytes() -> None:
    size = _entry("a", "x" * 1000).size
    assert size > 1000
    store = ResponseStore(100, 3 * size)
    entries = [_entry(name, "x" * 1000) for name in "abcde"]
    for entry in entries:
        store.add(entry)
    assert [store.get(name) is not None for name in "abcde"] == [False, False, True, True, True]
    assert store.item(entries[0].items[0].id) is None
    assert store.item(entries[4].items[0].id) is not None
    store.add(_entry("f", "x" * 10_000))  # alone over the limit: it displaces nobody
    assert store.get("f") is None
    assert store.get("e") is not None


def test_a_conversation_counts_whole() -> None:
    first = _entry("a", "x" * 1000)
    assert _entry("b", "y", before=first.items).size > first.size


def test_earlier_items_keep_their_response_in_use() -> None:
    store = ResponseStore(2, 10**6)
    for name in "ab":
        store.add(_entry(name, "x"))
    body = ResponsesRequest.model_validate(ASKED | {"previous_response_id": "a"})
    assert len(earlier_items(body, store)) == 1
    store.add(_entry("c", "x"))
    assert store.get("a") is not None
