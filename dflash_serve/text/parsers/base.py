"""What a model's markup is: reasoning and tool calls inside generated text. Pure.

Knows no requests, tokens or doors. One file per markup; `table` names them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A function that the model may call. ``parameters`` is a JSON schema of an object.

    ``strict``: arguments that are generated must validate against it.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More reasoning text."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """Tool call number ``call`` (from 0) begins; its name is complete."""

    call: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of call ``call``'s arguments. All pieces join to one JSON object."""

    call: int
    text: str


Event = Reasoning | Content | CallBegin | CallArguments


class MarkupParser(Protocol):
    """Splits one answer's text into events, wherever the borders between its pieces lie.

    Text that turns out to be no valid call is given out as content, never lost, never an error.
    """

    def push(self, text: str) -> Sequence[Event]:
        """The events that ``text`` completes."""
        ...

    def flush(self) -> Sequence[Event]:
        """End of the text: what was held back."""
        ...


class Markup(Protocol):
    """One family's way to write reasoning and tool calls."""

    @property
    def name(self) -> str: ...

    @property
    def markers(self) -> tuple[str, ...]:
        """Special tokens that the parser must see as text (detokenizing skips others)."""
        ...

    @property
    def reasoning(self) -> tuple[str, str] | None:
        """Opening and closing marker of reasoning; None: the family writes none."""
        ...

    def parser(self, tools: Sequence[ToolSpec], *, in_reasoning: bool) -> MarkupParser:
        """A parser for one answer. ``in_reasoning``: the prompt ends inside the reasoning.

        Without ``tools`` tool markup is ordinary text.
        """
        ...

    def with_special(self, ids: Mapping[str, int]) -> "Markup":
        """This markup for a tokenizer in which those texts are special tokens.

        `lark.special_ids` finds those of the `markers`. Grammars write others as text.
        """
        ...

    def call_grammar(self, tools: Sequence[ToolSpec], *, required: bool, parallel: bool) -> str:
        """A Lark grammar (llguidance's dialect) of answers that call ``tools``.

        ``required``: calls and nothing else, at least one, whose arguments validate; otherwise
        any text, in which each call of a strict tool has arguments that validate. Without
        ``parallel`` at most one call. It begins behind the reasoning.

        Raises:
            ValueError: the markup has no calls, or cannot enforce a schema; the message says why.
        """
        ...

    def in_reasoning(self, prompt: str) -> bool:
        """Whether a rendered prompt ends inside opened reasoning. Only its last turn is given."""
        ...
