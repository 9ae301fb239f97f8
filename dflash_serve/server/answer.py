"""One choice's text -> deltas: markup split into reasoning, text and tool calls. Pure."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from dflash_serve.server.deltas import CallDelta, Channel, TextDelta, TokenEntry
from dflash_serve.text.parsers.base import CallArguments, CallBegin, Event, MarkupParser, Reasoning


@dataclass(slots=True)
class _Piece:
    """A delta in the making. ``call`` None is text on ``channel``."""

    channel: Channel
    call: int | None = None
    name: str | None = None
    text: str = ""
    entries: list[TokenEntry] = field(default_factory=list)

    def follows(self, other: "_Piece") -> bool:
        """Whether both can be one delta."""
        same = self.channel is other.channel and self.call == other.call
        return same and self.name is None and other.name is None


class Answer:
    """Takes the text of each token and gives out deltas, as few as their kinds allow.

    ``parser`` None: all text is content. Without ``parallel`` only the first tool call is given
    out. Log-probabilities go with the next delta behind their token's text.
    """

    def __init__(
        self,
        index: int,
        parser: MarkupParser | None = None,
        *,
        in_reasoning: bool = False,
        parallel: bool = True,
    ) -> None:
        self._index = index
        self._parser = parser
        self._parallel = parallel
        self._ids: list[str] = []
        self._pieces: list[_Piece] = []
        self._entries: list[TokenEntry] = []
        self._reasoned = in_reasoning
        self._reasoning_over = False
        self._before_end = 0  # tokens pushed while the reasoning went on
        self.full = False
        """A second tool call began where only one is wanted: nothing more is given out."""

    @property
    def called(self) -> bool:
        """Whether a tool call was given out."""
        return bool(self._ids)

    @property
    def counting(self) -> bool:
        """Whether tokens must come one by one, to be counted as reasoning."""
        return self._parser is not None and not self._reasoning_over

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the reasoning, its markers included."""
        return self._before_end if self._reasoned else 0

    def push(self, text: str, entries: Sequence[TokenEntry] = ()) -> None:
        """The text that one more token (or some, unless `counting`) completes, and its entries."""
        self._entries += entries
        if self._parser is None:
            self._add_text(Channel.CONTENT, text)
        elif text:
            self._add(self._parser.push(text))
        self._before_end += not self._reasoning_over

    def flush(self, text: str, entries: Sequence[TokenEntry] = ()) -> None:
        """End of the text."""
        self._entries += entries
        if self._parser is None:
            self._add_text(Channel.CONTENT, text)
        else:
            self._add([*(self._parser.push(text) if text else ()), *self._parser.flush()])

    def drain(self) -> list[TextDelta | CallDelta]:
        """The deltas since the last call."""
        pieces, self._pieces = self._pieces, []
        return [self._delta(piece) for piece in pieces]

    def rest(self) -> tuple[TokenEntry, ...]:
        """Entries that no delta took."""
        entries, self._entries = tuple(self._entries), []
        return entries

    def _add(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Reasoning):
                self._reasoned = self._reasoned or not self._reasoning_over
                self._add_text(Channel.REASONING, event.text)
                continue
            self._reasoning_over = True
            if isinstance(event, CallBegin | CallArguments):
                self._add_call(event)
            else:
                self._add_text(Channel.CONTENT, event.text)

    def _add_text(self, channel: Channel, text: str) -> None:
        if text and not self.full:
            self._append(_Piece(channel, text=text))

    def _add_call(self, event: CallBegin | CallArguments) -> None:
        if event.call > 0 and not self._parallel:
            self.full = True
        if self.full:
            return
        if isinstance(event, CallBegin):
            self._ids.append(f"call_{secrets.token_hex(12)}")
            self._append(_Piece(Channel.CONTENT, event.call, event.name))
        elif event.text:
            self._append(_Piece(Channel.CONTENT, event.call, text=event.text))

    def _append(self, piece: _Piece) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is not None and piece.follows(last):
            last.text += piece.text
            piece = last
        else:
            self._pieces.append(piece)
        piece.entries += self._entries
        self._entries = []

    def _delta(self, piece: _Piece) -> TextDelta | CallDelta:
        entries = tuple(piece.entries)
        if piece.call is None:
            return TextDelta(self._index, piece.text, piece.channel, entries)
        name = self._ids[piece.call]
        return CallDelta(self._index, piece.call, name, piece.name, piece.text, entries)
