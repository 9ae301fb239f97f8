"""A generation's deltas -> chat completions, whole and streamed. Pure.

Knows nothing of requests, engines or sockets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dflash_serve.engine.types import Usage
from dflash_serve.server.deltas import (
    CallDelta,
    Channel,
    Delta,
    EndDelta,
    Finish,
    TextDelta,
    TokenEntry,
)
from dflash_serve.server.protocol.chat_answer import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    ContentLogprob,
    FunctionCallDelta,
    FunctionCallOut,
    ToolCallDelta,
    ToolCallOut,
    TopLogprob,
)
from dflash_serve.server.protocol.chat_answer import Delta as WireDelta
from dflash_serve.server.protocol.common import CompletionUsage, MetaInfo
from dflash_serve.server.usage import wire_usage

Meta = Callable[[Sequence[Usage]], MetaInfo]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all chunks of one response repeat."""

    id: str
    created: int
    model: str
    fingerprint: str

    def chunk(self, choices: list[ChunkChoice], **extra: Any) -> ChatCompletionChunk:
        """``extra`` is ``usage`` or ``meta_info``, or nothing."""
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            **extra,
        )

    def completion(self, choices: list[Choice], **extra: Any) -> ChatCompletion:
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            **extra,
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """What the client wants to see.

    ``usage``: a last chunk without choices has it; the others have null, or what ``used`` says has
    been generated so far, behind a prompt of ``prompt_tokens``. ``named``: the client chose the
    function that is called, for which OpenAI's finish reason is ``stop``. ``meta`` gives
    ``meta_info``, if wanted.
    """

    choices: int = 1
    logprobs: bool = False
    named: bool = False
    usage: bool = False
    used: Callable[[], int] | None = None
    prompt_tokens: int = 0
    meta: Meta | None = None


class ChatStream:
    """The chunks of one streamed chat completion, as JSON texts."""

    def __init__(self, envelope: Envelope, shape: Shape) -> None:
        self._envelope = envelope
        self._shape = shape
        self._ends: list[EndDelta] = []

    def begin(self) -> list[str]:
        """One chunk per choice, which says who speaks."""
        return [
            self._chunk(index, WireDelta(role="assistant", content=""))
            for index in range(self._shape.choices)
        ]

    def chunks(self, batch: Sequence[Delta]) -> list[str]:
        return [self._of(delta) for delta in batch]

    def end(self) -> list[str]:
        """Behind the last delta: the usage, if it is wanted."""
        if not self._shape.usage:
            return []
        extra: dict[str, Any] = {"usage": _total(self._ends)}
        if self._shape.meta:
            extra["meta_info"] = self._meta()
        return [self._envelope.chunk([], **extra).json_text()]

    def _of(self, delta: Delta) -> str:
        if isinstance(delta, EndDelta):
            return self._last(delta)
        wire = _wire_text(delta) if isinstance(delta, TextDelta) else _wire_call(delta)
        return self._chunk(delta.index, wire, delta.logprobs)

    def _last(self, delta: EndDelta) -> str:
        self._ends.append(delta)
        extra: dict[str, Any] = {}
        if self._shape.meta and not self._shape.usage and len(self._ends) == self._shape.choices:
            extra["meta_info"] = self._meta()
        finish = finish_reason(delta.finish, self._shape.named)
        return self._chunk(delta.index, WireDelta(), delta.logprobs, finish, **extra)

    def _chunk(
        self,
        index: int,
        delta: WireDelta,
        logprobs: Sequence[TokenEntry] = (),
        finish: Finish | None = None,
        **extra: Any,
    ) -> str:
        choice = ChunkChoice(
            index=index,
            delta=delta,
            logprobs=wire_logprobs(logprobs) if self._shape.logprobs and logprobs else None,
            finish_reason=finish,
        )
        if self._shape.usage:
            extra["usage"] = self._so_far()
        return self._envelope.chunk([choice], **extra).json_text()

    def _so_far(self) -> CompletionUsage | None:
        if self._shape.used is None:
            return None
        return wire_usage([Usage(self._shape.prompt_tokens, completion_tokens=self._shape.used())])

    def _meta(self) -> MetaInfo:
        assert self._shape.meta is not None
        return self._shape.meta([end.usage for end in self._ends])


@dataclass(slots=True)
class _Whole:
    """One choice of a whole answer, adding up."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[tuple[CallDelta, list[str]]] = field(default_factory=list)
    entries: list[TokenEntry] = field(default_factory=list)
    end: EndDelta | None = None

    def add(self, delta: Delta) -> None:
        self.entries += delta.logprobs
        if isinstance(delta, EndDelta):
            self.end = delta
        elif isinstance(delta, TextDelta):
            said = self.content if delta.channel is Channel.CONTENT else self.reasoning
            said.append(delta.text)
        elif delta.name is not None:
            self.calls.append((delta, [delta.arguments]))
        else:
            self.calls[delta.call][1].append(delta.arguments)

    def message(self) -> AssistantMessage:
        said: dict[str, Any] = {}
        if self.reasoning:
            text = "".join(self.reasoning)
            said |= {"reasoning_content": text, "reasoning": text}
        if self.calls:
            said["tool_calls"] = [_wire_whole_call(*call) for call in self.calls]
        content = "".join(self.content)
        return AssistantMessage(
            role="assistant",
            content=content if content or not self.calls else None,
            refusal=None,
            annotations=[],
            **said,
        )


def whole(envelope: Envelope, shape: Shape, deltas: Sequence[Delta]) -> ChatCompletion:
    """The answer that is not streamed."""
    choices = [_Whole() for _ in range(shape.choices)]
    for delta in deltas:
        choices[delta.index].add(delta)
    ends = [choice.end for choice in choices if choice.end is not None]
    meta = {"meta_info": shape.meta([end.usage for end in ends])} if shape.meta else {}
    return envelope.completion(
        [
            Choice(
                index=index,
                message=choice.message(),
                logprobs=wire_logprobs(choice.entries) if shape.logprobs else None,
                finish_reason=finish_reason(end.finish, shape.named),
            )
            for index, (choice, end) in enumerate(zip(choices, ends, strict=True))
        ],
        usage=_total(ends),
        **meta,
    )


def finish_reason(finish: Finish, named: bool) -> Finish:
    """A call of a function that the client itself named ends with ``stop``, as at OpenAI."""
    return "stop" if named and finish == "tool_calls" else finish


def wire_logprobs(entries: Sequence[TokenEntry]) -> ChoiceLogprobs:
    return ChoiceLogprobs(
        content=[
            ContentLogprob(
                token=entry.text,
                bytes=list(entry.data),
                logprob=entry.logprob if entry.logprob is not None else 0.0,
                top_logprobs=[
                    TopLogprob(token=top.text, bytes=list(top.data), logprob=top.logprob or 0.0)
                    for top in entry.top
                ],
            )
            for entry in entries
        ],
        refusal=None,
    )


def _total(ends: Sequence[EndDelta]) -> CompletionUsage:
    reasoning = sum(end.reasoning_tokens for end in ends)
    return wire_usage([end.usage for end in ends], reasoning)


def _wire_text(delta: TextDelta) -> WireDelta:
    if delta.channel is Channel.CONTENT:
        return WireDelta(content=delta.text)
    return WireDelta(reasoning_content=delta.text, reasoning=delta.text)


def _wire_call(delta: CallDelta) -> WireDelta:
    if delta.name is None:
        more = FunctionCallDelta(arguments=delta.arguments)
        return WireDelta(tool_calls=[ToolCallDelta(index=delta.call, function=more)])
    begun = FunctionCallDelta(name=delta.name, arguments=delta.arguments)
    call = ToolCallDelta(index=delta.call, id=delta.id, type="function", function=begun)
    return WireDelta(tool_calls=[call])


def _wire_whole_call(begin: CallDelta, arguments: Sequence[str]) -> ToolCallOut:
    function = FunctionCallOut(name=begin.name or "", arguments="".join(arguments))
    return ToolCallOut(id=begin.id, type="function", function=function)
