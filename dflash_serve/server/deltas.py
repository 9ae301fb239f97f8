"""What a generation gives out, for any door: pieces of text and of tool calls, then an end."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from dflash_serve.engine.types import Usage

Finish = Literal["stop", "length", "tool_calls"]


class Channel(Enum):
    """Whether text is the answer's own or the reasoning before it."""

    CONTENT = "content"
    REASONING = "reasoning"


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One token with its log-probability, and the most likely tokens at its position.

    ``text`` is that of the token alone, ``data`` its bytes, which need not be whole characters.
    ``logprob`` is None for the first token of a prompt.
    """

    token: int
    text: str
    data: bytes
    logprob: float | None
    top: tuple["TokenEntry", ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of choice ``index``. ``logprobs``: the tokens that it completes, if asked for."""

    index: int
    text: str
    channel: Channel = Channel.CONTENT
    logprobs: tuple[TokenEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of tool call ``call`` (from 0). The first one has ``name`` and no arguments."""

    index: int
    call: int
    id: str
    name: str | None = None
    arguments: str = ""
    logprobs: tuple[TokenEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class EndDelta:
    """The end of choice ``index``. ``finish`` is ``tool_calls`` wherever a call was given out.

    ``stop_string``: the one that ended it. ``reasoning_tokens`` are part of ``usage``'s completion
    tokens. ``logprobs``: of tokens that completed no text. ``tokens``: all that were generated, a
    final stop token included.
    """

    index: int
    finish: Finish
    usage: Usage
    stop_string: str | None = None
    reasoning_tokens: int = 0
    logprobs: tuple[TokenEntry, ...] = ()
    tokens: tuple[int, ...] = ()


Delta = TextDelta | CallDelta | EndDelta


def truncated(usage: Usage, tokens: int) -> Usage:
    """``usage`` of a choice whose text ended after ``tokens``: drafts beyond count as rejected."""
    dropped = usage.completion_tokens - tokens
    return replace(usage, completion_tokens=tokens, accepted=max(0, usage.accepted - dropped))
