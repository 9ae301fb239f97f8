"""A generation's deltas -> Anthropic's events and message. Pure.

Knows nothing of requests, engines or sockets. The whole answer is what its events add up to.
"""

import json
from typing import Any

from dflash_serve.engine.types import Usage
from dflash_serve.server.deltas import CallDelta, Channel, Delta, EndDelta
from dflash_serve.server.protocol.messages import (
    BlockDelta,
    BlockOut,
    BlockStart,
    BlockStop,
    Caller,
    DeltaOut,
    DeltaUsage,
    InputJsonDelta,
    MessageDelta,
    MessageEvent,
    MessageOut,
    MessageStart,
    MessageStop,
    MessageUsage,
    SignatureDelta,
    StopDelta,
    StopReason,
    TextDelta,
    TextOut,
    ThinkingDelta,
    ThinkingOut,
    ThinkingTokens,
    ToolUseOut,
)

_SIGNATURE = "unsigned"
"""Clients send it back and expect one; nothing is checked by it."""


class MessageWriter:
    """Writes one message as events. ``message`` is the answer so far, whole after `finish`.

    ``thinking``: whether reasoning is given out at all. ``omitted``: its blocks stay empty.
    """

    def __init__(self, name: str, model: str, *, thinking: bool, omitted: bool = False) -> None:
        self.message = MessageOut(
            id=name,
            type="message",
            role="assistant",
            model=model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            stop_details=None,
            container=None,
            usage=_whole_usage(Usage(), 0),
        )
        self._thinking = thinking
        self._omitted = omitted
        self._call: int | None = None  # the tool call whose block is open
        self._arguments = ""
        self._open: BlockOut | None = None

    def begin(self, prompt_tokens: int) -> list[MessageEvent]:
        self.message.usage = _whole_usage(Usage(prompt_tokens), 0)
        # the event is a picture of now: the message itself goes on changing
        return [MessageStart(type="message_start", message=self.message.model_copy(deep=True))]

    def push(self, delta: Delta) -> list[MessageEvent]:
        """The events of one delta; an `EndDelta` ends the message."""
        if isinstance(delta, EndDelta):
            return self._finish(delta)
        if isinstance(delta, CallDelta):
            return self._push_call(delta)
        if delta.channel is Channel.REASONING:
            return self._push_thinking(delta.text) if self._thinking else []
        return self._push_text(delta.text)

    def _push_text(self, text: str) -> list[MessageEvent]:
        events: list[MessageEvent] = []
        block = self._open
        if not isinstance(block, TextOut):
            block = TextOut(type="text", text="", citations=None)
            events += [*self._close(), *self._start(block)]
        block.text += text
        return [*events, self._delta(TextDelta(type="text_delta", text=text))]

    def _push_thinking(self, text: str) -> list[MessageEvent]:
        events: list[MessageEvent] = []
        block = self._open
        if not isinstance(block, ThinkingOut):
            block = ThinkingOut(type="thinking", thinking="", signature="")
            events += [*self._close(), *self._start(block)]
        if not self._omitted:
            block.thinking += text
            events.append(self._delta(ThinkingDelta(type="thinking_delta", thinking=text)))
        return events

    def _push_call(self, delta: CallDelta) -> list[MessageEvent]:
        events: list[MessageEvent] = []
        if delta.call != self._call:
            block = ToolUseOut(
                type="tool_use",
                id=delta.id,
                name=delta.name or "",
                input={},
                caller=Caller(type="direct"),
            )
            events += [*self._close(), *self._start(block)]
            self._call = delta.call
        if delta.arguments:
            self._arguments += delta.arguments
            piece = InputJsonDelta(type="input_json_delta", partial_json=delta.arguments)
            events.append(self._delta(piece))
        return events

    def _finish(self, end: EndDelta) -> list[MessageEvent]:
        events = (
            []
            if self.message.content
            else self._start(TextOut(type="text", text="", citations=None))
        )
        events += self._close()
        self.message.stop_reason = _stop_reason(end)
        self.message.stop_sequence = end.stop_string
        self.message.usage = _whole_usage(end.usage, end.reasoning_tokens)
        stop = StopDelta(
            stop_reason=self.message.stop_reason,
            stop_sequence=self.message.stop_sequence,
            stop_details=None,
            container=None,
        )
        usage = _usage(end.usage, end.reasoning_tokens)
        events.append(MessageDelta(type="message_delta", delta=stop, usage=usage))
        return [*events, MessageStop(type="message_stop")]

    def _start(self, block: BlockOut) -> list[MessageEvent]:
        self.message.content.append(block)
        self._open = block
        shown = block.model_copy()
        return [BlockStart(type="content_block_start", index=self._index, content_block=shown)]

    def _close(self) -> list[MessageEvent]:
        block, self._open = self._open, None
        if block is None:
            return []
        events: list[MessageEvent] = []
        if isinstance(block, ThinkingOut):
            block.signature = _SIGNATURE
            signature = SignatureDelta(type="signature_delta", signature=_SIGNATURE)
            events.append(self._delta(signature))
        if isinstance(block, ToolUseOut):
            block.input = _json_object(self._arguments)
            self._call, self._arguments = None, ""
        return [*events, BlockStop(type="content_block_stop", index=self._index)]

    def _delta(self, delta: DeltaOut) -> BlockDelta:
        return BlockDelta(type="content_block_delta", index=self._index, delta=delta)

    @property
    def _index(self) -> int:
        return len(self.message.content) - 1


def _stop_reason(end: EndDelta) -> StopReason:
    if end.finish == "tool_calls":
        return "tool_use"
    if end.finish == "length":
        return "max_tokens"
    return "end_turn" if end.stop_string is None else "stop_sequence"


def _json_object(text: str) -> dict[str, Any]:
    """The arguments of a call. Cut off by the token limit they are no JSON: then none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _usage(usage: Usage, thinking: int) -> DeltaUsage:
    return DeltaUsage(
        input_tokens=usage.prompt_tokens,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=0,
        output_tokens=usage.completion_tokens,
        output_tokens_details=ThinkingTokens(thinking_tokens=thinking),
        server_tool_use=None,
    )


def _whole_usage(usage: Usage, thinking: int) -> MessageUsage:
    return MessageUsage(
        **dict(_usage(usage, thinking)),
        cache_creation=None,
        inference_geo=None,
        service_tier="standard",
    )
