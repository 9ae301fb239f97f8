"""A generation's deltas -> text completions, whole and streamed. Pure.

Knows nothing of requests, engines or sockets.
"""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dflash_serve.engine.types import Usage
from dflash_serve.server.deltas import CallDelta, Delta, EndDelta, TokenEntry
from dflash_serve.server.protocol.common import CompletionUsage, MetaInfo
from dflash_serve.server.protocol.completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
)
from dflash_serve.server.usage import wire_usage

_Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """What all chunks repeat, and what the client wants to see.

    ``choices`` of ``n`` per prompt. ``top``: how many of the most likely tokens, None for no
    log-probabilities. ``usage``: a last chunk without choices has it; the others have null, or
    what ``used`` says has been generated so far, behind ``prompt_tokens``.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    choices: int
    n: int
    top: int | None = None
    usage: bool = False
    used: Callable[[], int] | None = None
    prompt_tokens: int = 0
    meta: Callable[[Sequence[Usage]], MetaInfo] | None = None


class CompletionWriter:
    """The chunks of one text completion, or the whole of it."""

    def __init__(self, shape: CompletionShape) -> None:
        self._shape = shape
        self._choices = [_Choice(shape.top) for _ in range(shape.choices)]

    def chunks(self, batch: Sequence[Delta]) -> list[str]:
        """A chunk for each delta, as JSON text."""
        return [self._chunk(delta) for delta in batch]

    def end(self) -> list[str]:
        """Behind the last delta: the usage, if it is wanted."""
        if not self._shape.usage:
            return []
        return [self._wire([], usage=self._usage(), **self._meta()).json_text()]

    def add(self, delta: Delta) -> None:
        """For the answer that is not streamed."""
        self._choices[delta.index].add(delta)

    def whole(self) -> Completion:
        choices = [choice.whole(index) for index, choice in enumerate(self._choices)]
        return self._wire(choices, usage=self._usage(), **self._meta())

    def _chunk(self, delta: Delta) -> str:
        choice = self._choices[delta.index]
        extra: dict[str, Any] = {"usage": self._so_far()} if self._shape.usage else {}
        wire = choice.chunk(delta)
        if isinstance(delta, EndDelta) and not self._shape.usage and self._over:
            extra |= self._meta()
        return self._wire([wire], **extra).json_text()

    @property
    def _over(self) -> bool:
        return all(choice.end is not None for choice in self._choices)

    def _wire(self, choices: list[CompletionChoice], **extra: Any) -> Completion:
        return Completion(
            id=self._shape.id,
            object="text_completion",
            created=self._shape.created,
            model=self._shape.model,
            system_fingerprint=self._shape.fingerprint,
            choices=choices,
            **extra,
        )

    def _usage(self) -> CompletionUsage:
        """The choices of one prompt read it once; each prompt counts."""
        ends = [choice.end.usage for choice in self._choices if choice.end is not None]
        parts = [ends[at : at + self._shape.n] for at in range(0, len(ends), self._shape.n)]
        prompt = sum(wire_usage(part).prompt_tokens for part in parts)
        total = wire_usage(ends)
        total.total_tokens += prompt - total.prompt_tokens
        total.prompt_tokens = prompt
        return total

    def _so_far(self) -> CompletionUsage | None:
        if self._shape.used is None:
            return None
        return wire_usage([Usage(self._shape.prompt_tokens, self._shape.used())])

    def _meta(self) -> dict[str, MetaInfo]:
        if self._shape.meta is None:
            return {}
        ends = [choice.end for choice in self._choices if choice.end is not None]
        return {"meta_info": self._shape.meta([end.usage for end in ends])}


@dataclass(slots=True)
class _Choice:
    """One choice, adding up. ``offset``: where the next token's text begins."""

    top: int | None
    texts: list[str] = field(default_factory=list)
    entries: list[TokenEntry] = field(default_factory=list)
    end: EndDelta | None = None
    offset: int = 0
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def add(self, delta: Delta) -> None:
        self.entries += delta.logprobs
        self._take(delta)

    def chunk(self, delta: Delta) -> CompletionChoice:
        text = self._take(delta)
        logprobs = self._logprobs(delta.logprobs) if delta.logprobs else None
        finish = _finish(delta) if isinstance(delta, EndDelta) else None
        return CompletionChoice(
            index=delta.index, text=text, logprobs=logprobs, finish_reason=finish
        )

    def whole(self, index: int) -> CompletionChoice:
        assert self.end is not None
        return CompletionChoice(
            index=index,
            text="".join(self.texts),
            logprobs=self._logprobs(self.entries),
            finish_reason=_finish(self.end),
        )

    def _take(self, delta: Delta) -> str:
        assert not isinstance(delta, CallDelta), "a text completion has no tools"
        if isinstance(delta, EndDelta):
            self.end = delta
            return ""
        self.texts.append(delta.text)
        return delta.text

    def _logprobs(self, entries: Sequence[TokenEntry]) -> CompletionLogprobs | None:
        if self.top is None:
            return None
        offsets = []
        for entry in entries:
            offsets.append(self.offset)
            self.offset += len(self.decoder.decode(entry.data))
        return CompletionLogprobs(
            tokens=[_name(entry) for entry in entries],
            token_logprobs=[entry.logprob for entry in entries],
            top_logprobs=[_top(entry) for entry in entries] if self.top else None,
            text_offset=offsets,
        )


def _top(entry: TokenEntry) -> dict[str, float] | None:
    """The most likely tokens, and the one that was chosen if it is not among them."""
    if entry.logprob is None:
        return None
    found = {_name(other): other.logprob or 0.0 for other in entry.top}
    return found if _name(entry) in found else found | {_name(entry): entry.logprob}


def _name(entry: TokenEntry) -> str:
    """The token's text; bytes that are no whole characters are written as OpenAI does."""
    try:
        return entry.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.data)


def _finish(end: EndDelta) -> _Finish:
    return "length" if end.finish == "length" else "stop"
