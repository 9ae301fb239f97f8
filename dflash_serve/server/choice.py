"""One choice of a request while it runs: engine chunks in, deltas out."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from dflash_serve.engine.client import EngineClient
from dflash_serve.engine.errors import EngineError, EngineUnavailable
from dflash_serve.engine.types import (
    EngineRequest,
    FinishReason,
    TokenChunk,
    TokenLogprob,
    Usage,
)
from dflash_serve.server.answer import Answer
from dflash_serve.server.deltas import Delta, EndDelta, Finish, TextDelta, TokenEntry, truncated
from dflash_serve.text.stream import TextStream
from dflash_serve.text.token_text import TokenText

Outbox = asyncio.Queue[list[Delta] | EngineError | None]
"""Deltas of one engine step, a failure, or None where a choice has ended."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What is unusual about a choice's text.

    ``prompt`` is put before it. ``shown``: stop tokens that are part of it. ``silent``: it is not
    wanted at all, only the prompt's.
    """

    prompt: str | None = None
    shown: frozenset[int] = frozenset()
    silent: bool = False


_NOTHING = Extras()


class Choice:
    """Owned by the task that runs it; read by others when that is done."""

    def __init__(
        self,
        index: int,
        request: EngineRequest,
        text: TextStream,
        answer: Answer,
        tokens: TokenText,
        extras: Extras = _NOTHING,
    ) -> None:
        self.request = request
        self.finish = "error"
        self.usage: Usage | None = None
        self._index = index
        self._text = text
        self._answer = answer
        self._table = tokens
        self._extras = extras
        self._prompt_text = extras.prompt
        self._flushed = False
        self._tokens: list[int] = []
        self._held: deque[tuple[int, TokenEntry]] = deque()  # (where its text begins, entry)

    async def run(
        self, source: AsyncIterator[TokenChunk], client: EngineClient, out: Outbox
    ) -> None:
        """Read ``source`` to its end, putting deltas on ``out``.

        Raises:
            EngineError: the choice ended by a failure or an abort that was not its stop string's.
        """
        last: TokenChunk | None = None
        async for last in source:
            deltas = self._take(last)
            if deltas:
                out.put_nowait(deltas)
            if self._over and last.finish is None:
                client.abort(self.request.id)
        if last is None or last.finish is None:
            raise EngineError("the engine ended a request without a last chunk")
        out.put_nowait([self._end(last, last.finish)])

    @property
    def tokens(self) -> tuple[int, ...]:
        """What was generated for the text, the stop token or a stop string's last one included."""
        return tuple(self._tokens)

    def final_usage(self) -> Usage:
        """What the engine said it cost, or what is known if it never said."""
        known = Usage(prompt_tokens=len(self.request.prompt), completion_tokens=self._text.tokens)
        return self.usage or known

    @property
    def _over(self) -> bool:
        return self._text.stopped or self._answer.full

    def _take(self, chunk: TokenChunk) -> list[Delta]:
        deltas: list[Delta] = list(self._prompt(chunk))
        if self._extras.silent:
            return deltas
        if chunk.logprobs or self._answer.counting:
            for at, token in enumerate(chunk.tokens):
                if self._over:
                    break
                self._take_token(token, chunk.logprobs[at] if chunk.logprobs else None)
        else:
            self._take_all(chunk.tokens)
        ended = chunk.finish in (FinishReason.STOP, FinishReason.LENGTH)
        if not self._flushed and (self._over or ended):
            self._flushed = True
            self._finish_text(chunk)
        return [*deltas, *self._answer.drain()]

    def _take_all(self, tokens: Sequence[int]) -> None:
        if self._over:
            return
        before = self._text.tokens
        text = self._text.push(tokens)
        self._tokens += tokens[: self._text.tokens - before]
        self._answer.push(text)

    def _take_token(self, token: int, logprob: TokenLogprob | None) -> None:
        begin = self._text.read
        text = self._text.take(token)
        self._tokens.append(token)
        if logprob is not None:
            self._held.append((begin, self._entry(logprob)))
        self._answer.push(text, self._release(self._text.given) if self._held else ())

    def _finish_text(self, chunk: TokenChunk) -> None:
        """What was held back; behind a stop string nothing is."""
        if self._over:
            self._answer.flush("", self._release(self._text.given))
            return
        if chunk.stop_token is not None and chunk.stop_token in self._extras.shown:
            probs = chunk.logprobs[len(chunk.tokens) :]
            self._take_token(chunk.stop_token, probs[0] if probs else None)
            self._tokens.pop()  # `_end` adds it
        text = self._text.flush()
        entries = [entry for _, entry in self._held]
        self._held.clear()
        self._answer.flush(text, entries)

    def _release(self, given: int) -> list[TokenEntry]:
        """The entries of tokens whose text has begun to be given out."""
        entries = []
        while self._held and self._held[0][0] < given:
            entries.append(self._held.popleft()[1])
        return entries

    def _entry(self, logprob: TokenLogprob) -> TokenEntry:
        top = tuple(self._named(token, value) for token, value in logprob.top)
        return self._named(logprob.token, logprob.logprob, top)

    def _named(
        self, token: int, value: float | None, top: tuple[TokenEntry, ...] = ()
    ) -> TokenEntry:
        return TokenEntry(token, self._table.text(token), self._table.data(token), value, top)

    def _prompt(self, chunk: TokenChunk) -> Sequence[Delta]:
        """The echoed prompt, once: with the first chunk, which brings its log-probabilities."""
        if self._prompt_text is None:
            return ()
        text, self._prompt_text = self._prompt_text, None
        entries = [
            self._named(token, None) if logprob is None else self._entry(logprob)
            for token, logprob in zip(self.request.prompt, chunk.prompt_logprobs, strict=False)
        ]
        return [TextDelta(self._index, text, logprobs=tuple(entries))]

    def _end(self, chunk: TokenChunk, finish: FinishReason) -> EndDelta:
        self.usage = chunk.usage or self.final_usage()
        if self._over:
            self.usage = truncated(self.usage, self._text.tokens)
            return self._end_delta("stop", self.usage)
        if finish is FinishReason.STOP:
            self._tokens += () if chunk.stop_token is None else (chunk.stop_token,)
            return self._end_delta("stop", self.usage)
        if finish is FinishReason.LENGTH:
            return self._end_delta("length", self.usage)
        self.finish = finish.value
        if finish is FinishReason.ABORTED:
            raise EngineUnavailable("The answer ends here: the server is shutting down.")
        raise EngineError(chunk.error or "The engine failed.")

    def _end_delta(self, finish: Finish, usage: Usage) -> EndDelta:
        if self._extras.silent:
            finish, usage = "length", truncated(usage, 0)
        self.finish = finish
        # behind a stop string the arguments of a call may be cut off
        whole = finish == "stop" and not self._text.stopped
        said = "tool_calls" if whole and self._answer.called else finish
        return EndDelta(
            self._index,
            said,
            usage,
            self._text.stop,
            self._answer.reasoning_tokens,
            self._answer.rest(),
            self.tokens,
        )
