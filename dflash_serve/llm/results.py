"""What the Python interface returns, put together from the deltas that all doors read. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dflash_serve.engine.types import Usage
from dflash_serve.server.deltas import CallDelta, Channel, Delta, EndDelta, Finish, TokenEntry
from dflash_serve.server.doors.chat_answer import finish_reason


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function that the answer makes. ``arguments`` is the JSON text of an object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole answer.

    ``token_ids`` are all that were generated, a final stop token included. ``finish_reason``:
    "stop" (a stop token or string), "length", or "tool_calls". ``stop_string``: the one that ended
    it. ``usage`` is what it cost: tokens, rounds, drafted and accepted tokens, times.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: Finish
    usage: Usage
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenEntry, ...] = ()
    stop_string: str | None = None

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's message, to be appended to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        return message


@dataclass(frozen=True, slots=True)
class Answer:
    """The choices of one prompt: one, unless ``n`` asks for more.

    The properties are those of the first choice.
    """

    choices: tuple[Choice, ...]

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> Finish:
        return self.choices[0].finish_reason

    @property
    def reasoning(self) -> str:
        return self.choices[0].reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self.choices[0].tool_calls

    @property
    def logprobs(self) -> tuple[TokenEntry, ...]:
        return self.choices[0].logprobs

    @property
    def usage(self) -> Usage:
        return self.choices[0].usage

    @property
    def message(self) -> dict[str, Any]:
        return self.choices[0].message


@dataclass(frozen=True, slots=True)
class CallPiece:
    """More of tool call ``call`` (from 0). The first one has the name and no arguments."""

    call: int
    id: str
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a stream adds to choice ``index``: text, reasoning, or more of a tool call.

    The last piece of a choice has ``choice``, the whole of it, and adds no text.
    """

    index: int
    text: str = ""
    reasoning: str = ""
    call: CallPiece | None = None
    logprobs: tuple[TokenEntry, ...] = ()
    choice: Choice | None = None


class AnswerReader:
    """Turns the deltas of one request into pieces. ``named``: its caller chose the function."""

    def __init__(self, choices: int, *, named: bool) -> None:
        self._choices = [_Choice() for _ in range(choices)]
        self._named = named

    def piece(self, delta: Delta) -> Piece:
        """Of deltas in the order that they come in."""
        choice = self._choices[delta.index]
        choice.logprobs += delta.logprobs
        if isinstance(delta, EndDelta):
            return Piece(
                delta.index, logprobs=delta.logprobs, choice=choice.whole(delta, self._named)
            )
        if isinstance(delta, CallDelta):
            piece = CallPiece(delta.call, delta.id, delta.name, delta.arguments)
            choice.calls.append(piece)
            return Piece(delta.index, call=piece, logprobs=delta.logprobs)
        if delta.channel is Channel.REASONING:
            choice.reasoning.append(delta.text)
            return Piece(delta.index, reasoning=delta.text, logprobs=delta.logprobs)
        choice.text.append(delta.text)
        return Piece(delta.index, delta.text, logprobs=delta.logprobs)


@dataclass(slots=True)
class _Choice:
    """One choice, adding up."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[CallPiece] = field(default_factory=list)
    logprobs: list[TokenEntry] = field(default_factory=list)

    def whole(self, end: EndDelta, named: bool) -> Choice:
        return Choice(
            index=end.index,
            text="".join(self.text),
            token_ids=end.tokens,
            finish_reason=finish_reason(end.finish, named),
            usage=end.usage,
            reasoning="".join(self.reasoning),
            tool_calls=_whole_calls(self.calls),
            logprobs=tuple(self.logprobs),
            stop_string=end.stop_string,
        )


def _whole_calls(pieces: Sequence[CallPiece]) -> tuple[ToolCall, ...]:
    begun = [piece for piece in pieces if piece.name is not None]
    return tuple(
        ToolCall(
            first.id,
            first.name or "",
            "".join(piece.arguments for piece in pieces if piece.call == first.call),
        )
        for first in begun
    )
