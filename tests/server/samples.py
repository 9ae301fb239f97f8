"""What models say in these tests, and how streams of named events are read."""

from typing import Any

from pydantic import BaseModel, TypeAdapter

TEXT = "The quick brown fox é\U0001f600 jumps\u2028over END the lazy dog"
CALLS = (
    '<think>which one?</think>Let me see.<tool_call>{"name": "look", "arguments": {"at": "x"}}'
    '</tool_call><tool_call>{"name": "look", "arguments": {"at": [1, 2]}}</tool_call>'
)


class Place(BaseModel):
    """What structured answers hold."""

    name: str
    far: int


def named_events(body: str, types: TypeAdapter[Any]) -> list[Any]:
    """The events of a stream, each held against the client package's own type."""
    found = []
    for block in body.strip().split("\n\n"):
        name, data = block.split("\n")
        event = types.validate_json(data.removeprefix("data: "))
        assert name == f"event: {event.type}"
        found.append(event)
    return found
