"""Tools, answers and ways to parse them, shared by the parsers' tests."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from dflash_serve.text.parsers.base import (
    CallArguments,
    CallBegin,
    Content,
    Event,
    Markup,
    Reasoning,
    ToolSpec,
)

WEATHER = ToolSpec(
    "get_weather",
    "The weather in a city.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "place": {"$ref": "#/$defs/Place"},
            "flags": {"type": "array", "items": {"type": "boolean"}},
        },
        "required": ["city"],
        "$defs": {"Place": {"type": "object", "properties": {"lat": {"type": "number"}}}},
    },
)
CLOCK = ToolSpec("clock")
TOOLS = (WEATHER, CLOCK)


def merged(events: Iterable[Event]) -> list[Event]:
    """``events`` with neighbours of one kind joined: what does not depend on the pieces."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Content) and isinstance(last, Content):
            joined[-1] = Content(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments):
            assert event.call == last.call, "arguments without a call"
            joined[-1] = CallArguments(last.call, last.text + event.text)
        else:
            joined.append(event)
    return joined


def parse(
    markup: Markup,
    pieces: Sequence[str] | str,
    *,
    tools: Sequence[ToolSpec] = TOOLS,
    in_reasoning: bool = False,
) -> list[Event]:
    """The merged events of a text, or of the pieces that it arrives in."""
    parser = markup.parser(tools, in_reasoning=in_reasoning)
    events: list[Event] = []
    for piece in [pieces] if isinstance(pieces, str) else pieces:
        events += parser.push(piece)
    return merged([*events, *parser.flush()])


def cut(text: str, size: int) -> list[str]:
    """``text`` in pieces of ``size`` characters."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def calls(events: Sequence[Event]) -> list[tuple[str, Any]]:
    """Names and decoded arguments of the calls among ``events``."""
    found: list[tuple[str, Any]] = []
    for begin, arguments in itertools.pairwise(events):
        if isinstance(begin, CallBegin):
            assert isinstance(arguments, CallArguments)
            assert arguments.call == begin.call == len(found)
            found.append((begin.name, json.loads(arguments.text)))
    return found


def texts(events: Sequence[Event]) -> tuple[str, str]:
    """Reasoning and content among ``events``."""
    return (
        "".join(event.text for event in events if isinstance(event, Reasoning)),
        "".join(event.text for event in events if isinstance(event, Content)),
    )
