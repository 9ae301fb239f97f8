"""No markup at all: every text is content."""

from collections.abc import Sequence

from dflash_serve.text.parsers.base import Content, Event, ToolSpec


class PlainMarkup:
    """A `Markup` of models without reasoning and tool calls."""

    name = "none"
    markers: tuple[str, ...] = ()
    reasoning: tuple[str, str] | None = None

    def parser(self, tools: Sequence[ToolSpec], *, in_reasoning: bool) -> "_PlainParser":
        return _PlainParser()

    def call_grammar(self, tools: Sequence[ToolSpec], *, required: bool, parallel: bool) -> str:
        return 'start: "[]"'


class _PlainParser:
    def push(self, text: str) -> Sequence[Event]:
        return [Content(text)]

    def flush(self) -> Sequence[Event]:
        return []
