"""A generation's deltas -> the events and the object of ``/v1/responses``. Pure.

Knows nothing of requests, engines or sockets. The whole answer is what its events add up to.
"""

import secrets
from collections.abc import Sequence
from typing import Any, Literal

from dflash_serve.engine.types import Usage
from dflash_serve.server.deltas import CallDelta, Channel, Delta, EndDelta, TokenEntry
from dflash_serve.server.protocol.response_answer import (
    Failure,
    Incomplete,
    InputDetails,
    OutputCall,
    OutputDetails,
    OutputItem,
    OutputLogprob,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningPart,
    Response,
    ResponseUsage,
    SummaryPart,
)
from dflash_serve.server.protocol.response_events import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    InItemEvent,
    ItemEvent,
    LifecycleEvent,
    PartEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    ResponseEvent,
    SummaryDeltaEvent,
    SummaryDoneEvent,
    SummaryPartEvent,
    TextDeltaEvent,
    TextDoneEvent,
)

_Ended = Literal["completed", "incomplete"]


class ResponseWriter:
    """Writes one response as events; ``response`` is the object so far, whole after its end.

    ``summary``: reasoning is given out as a summary, which is what the client reads; otherwise as
    reasoning text.
    """

    def __init__(self, response: Response, *, summary: bool) -> None:
        self.response = response
        self._summary = summary
        self._number = 0
        self._open: OutputItem | None = None
        self._call: int | None = None  # the tool call whose item is open

    def begin(self) -> list[ResponseEvent]:
        return [self._lifecycle("response.created"), self._lifecycle("response.in_progress")]

    def push(self, delta: Delta) -> list[ResponseEvent]:
        """The events of one delta. An `EndDelta` ends the items; `finish` ends the response."""
        if isinstance(delta, EndDelta):
            return self._end(delta)
        if isinstance(delta, CallDelta):
            return self._push_call(delta)
        if delta.channel is Channel.REASONING:
            return self._push_reasoning(delta.text)
        return self._push_text(delta.text, delta.logprobs)

    def finish(self, now: int) -> list[ResponseEvent]:
        """The last event, after the `EndDelta`."""
        if self.response.incomplete_details is not None:
            return [self._lifecycle("response.incomplete")]
        self.response.completed_at = now
        return [self._lifecycle("response.completed")]

    def fail(self, message: str) -> list[ResponseEvent]:
        """The last event of a response that the server could not complete."""
        events = self._close("incomplete")
        self.response.status = "failed"
        self.response.error = Failure(code="server_error", message=message)
        return [*events, self._lifecycle("response.failed")]

    def _push_text(self, text: str, logprobs: Sequence[TokenEntry]) -> list[ResponseEvent]:
        events: list[ResponseEvent] = []
        item = self._open
        if not isinstance(item, OutputMessage):
            item = OutputMessage(
                type="message", id=_id("msg"), role="assistant", status="in_progress", content=[]
            )
            events += [*self._start(item), *self._start_text(item)]
        part, entries = item.content[0], [_logprob(entry) for entry in logprobs]
        part.text += text
        part.logprobs += entries
        event = self._inside(
            TextDeltaEvent,
            "response.output_text.delta",
            content_index=0,
            delta=text,
            logprobs=entries,
        )
        return [*events, event]

    def _start_text(self, item: OutputMessage) -> list[ResponseEvent]:
        part = OutputText(type="output_text", text="", annotations=[], logprobs=[])
        item.content.append(part)
        shown = part.model_copy(deep=True)
        kind = "response.content_part.added"
        return [self._inside(PartEvent, kind, content_index=0, part=shown)]

    def _push_reasoning(self, text: str) -> list[ResponseEvent]:
        events: list[ResponseEvent] = []
        item = self._open
        if not isinstance(item, OutputReasoning):
            item = OutputReasoning(
                type="reasoning", id=_id("rs"), summary=[], content=[], status="in_progress"
            )
            events += [*self._start(item), *self._start_reasoning(item)]
        part = (item.summary or item.content)[0]
        part.text += text
        if self._summary:
            kind = "response.reasoning_summary_text.delta"
            return [*events, self._inside(SummaryDeltaEvent, kind, summary_index=0, delta=text)]
        kind = "response.reasoning_text.delta"
        return [*events, self._inside(ReasoningDeltaEvent, kind, content_index=0, delta=text)]

    def _start_reasoning(self, item: OutputReasoning) -> list[ResponseEvent]:
        if self._summary:
            summary = SummaryPart(type="summary_text", text="")
            item.summary.append(summary)
            kind, shown = "response.reasoning_summary_part.added", summary.model_copy()
            return [self._inside(SummaryPartEvent, kind, summary_index=0, part=shown)]
        content = ReasoningPart(type="reasoning_text", text="")
        item.content.append(content)
        kind = "response.content_part.added"
        return [self._inside(PartEvent, kind, content_index=0, part=content.model_copy())]

    def _push_call(self, delta: CallDelta) -> list[ResponseEvent]:
        events: list[ResponseEvent] = []
        item = self._open
        if not isinstance(item, OutputCall) or delta.call != self._call:
            item = OutputCall(
                type="function_call",
                id=_id("fc"),
                call_id=delta.id,
                name=delta.name or "",
                arguments="",
                status="in_progress",
            )
            events += self._start(item)
            self._call = delta.call
        if delta.arguments:
            item.arguments += delta.arguments
            kind = "response.function_call_arguments.delta"
            events.append(self._inside(ArgumentsDeltaEvent, kind, delta=delta.arguments))
        return events

    def _end(self, end: EndDelta) -> list[ResponseEvent]:
        events: list[ResponseEvent] = []
        if not self.response.output or (end.logprobs and isinstance(self._open, OutputMessage)):
            # clients look for a message; the last tokens' log-probabilities belong to its text
            events += self._push_text("", end.logprobs)
        status: _Ended = "incomplete" if end.finish == "length" else "completed"
        events += self._close(status)
        self.response.status = status
        self.response.usage = _usage(end.usage, end.reasoning_tokens)
        if status == "incomplete":
            self.response.incomplete_details = Incomplete(reason="max_output_tokens")
        return events

    def _start(self, item: OutputItem) -> list[ResponseEvent]:
        events = self._close("completed")
        self.response.output.append(item)
        self._open = item
        return [*events, self._item("response.output_item.added", item)]

    def _close(self, status: _Ended) -> list[ResponseEvent]:
        item = self._open
        if item is None:
            return []
        item.status = status
        events = [*self._close_parts(item), self._item("response.output_item.done", item)]
        self._open = None
        return events

    def _close_parts(self, item: OutputItem) -> list[ResponseEvent]:
        if isinstance(item, OutputCall):
            kind = "response.function_call_arguments.done"
            said = {"name": item.name, "arguments": item.arguments}
            return [self._inside(ArgumentsDoneEvent, kind, **said)]
        if isinstance(item, OutputMessage):
            part = item.content[0]
            kind = "response.output_text.done"
            entries = list(part.logprobs)
            return [
                self._inside(
                    TextDoneEvent, kind, content_index=0, text=part.text, logprobs=entries
                ),
                self._inside(PartEvent, "response.content_part.done", content_index=0, part=part),
            ]
        return self._close_reasoning(item)

    def _close_reasoning(self, item: OutputReasoning) -> list[ResponseEvent]:
        if item.summary:
            summary = item.summary[0]
            done = "response.reasoning_summary_text.done"
            return [
                self._inside(SummaryDoneEvent, done, summary_index=0, text=summary.text),
                self._inside(
                    SummaryPartEvent,
                    "response.reasoning_summary_part.done",
                    summary_index=0,
                    part=summary,
                ),
            ]
        content = item.content[0]
        done = "response.reasoning_text.done"
        return [
            self._inside(ReasoningDoneEvent, done, content_index=0, text=content.text),
            self._inside(PartEvent, "response.content_part.done", content_index=0, part=content),
        ]

    def _lifecycle(self, kind: Any) -> LifecycleEvent:
        # an event is a picture of now: the response itself goes on changing
        shown = self.response.model_copy(deep=True)
        return LifecycleEvent(type=kind, sequence_number=self._next(), response=shown)

    def _item(self, kind: Any, item: OutputItem) -> ItemEvent:
        shown = item.model_copy(deep=True)
        number = self._next()
        return ItemEvent(type=kind, sequence_number=number, output_index=self._index, item=shown)

    def _inside(self, event: type[InItemEvent], kind: str, **fields: Any) -> ResponseEvent:
        item = self.response.output[-1]
        return event(
            type=kind,
            sequence_number=self._next(),
            output_index=self._index,
            item_id=item.id,
            **fields,
        )

    def _next(self) -> int:
        self._number += 1
        return self._number - 1

    @property
    def _index(self) -> int:
        return len(self.response.output) - 1


def _id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(16)}"


def _logprob(entry: TokenEntry) -> OutputLogprob:
    return OutputLogprob(
        token=entry.text,
        bytes=list(entry.data),
        logprob=entry.logprob if entry.logprob is not None else 0.0,
        top_logprobs=[_logprob(other) for other in entry.top],
    )


def _usage(usage: Usage, reasoning_tokens: int) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=0, cache_write_tokens=0),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputDetails(reasoning_tokens=reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
