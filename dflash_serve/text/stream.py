"""Token ids -> text that is safe to send: whole characters, no stop string. Pure.

Knows nothing of requests or engines.
"""

import codecs
from collections.abc import Iterable, Sequence

from dflash_serve.text.token_text import TokenText

_REPLACEMENT = "\ufffd"
_MAX_PENDING = 64
"""Tokens that may wait for the rest of a character; a longer run is not a character."""


class Detokenizer:
    """Turns token ids into text one by one, never giving out half a character.

    The pieces join to what decoding all ids at once gives. Control tokens are skipped, but for
    those in ``kept``, which become their names.
    """

    def __init__(self, tokens: TokenText, kept: frozenset[int] = frozenset()) -> None:
        self._skipped = tokens.special - kept
        self._decoder = _Bytes(tokens) if tokens.byte_level else _Window(tokens)

    def push(self, token: int) -> str:
        """The text that ``token`` completes, often empty."""
        return "" if token in self._skipped else self._decoder.push(token)

    def flush(self) -> str:
        """What is left at the end; bytes that are not a character become U+FFFD."""
        return self._decoder.flush()


class _Bytes:
    """Byte-level vocabularies: the text is the UTF-8 of the joined bytes."""

    def __init__(self, tokens: TokenText) -> None:
        self._data = tokens.data
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._utf8.decode(self._data(token))

    def flush(self) -> str:
        text = self._utf8.decode(b"", True)
        self._utf8.reset()
        return text


class _Window:
    """Any other vocabulary, whose decoder may look at neighbouring tokens.

    (``tokenizers.decoders.DecodeStream`` can neither be flushed nor bounded, and raises when bytes
    before a character were garbage.) Ids are kept in one window: [0, known) were given out and are
    context for the decoder's spacing rules, [known, end) still wait for the rest of a character.
    """

    def __init__(self, tokens: TokenText) -> None:
        self._tokenizer = tokens.tokenizer
        self._ids: list[int] = []
        self._known = 0
        self._given = 0  # characters that [0, known) decode to

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._decode()
        waiting = len(text) <= self._given or text.endswith(_REPLACEMENT)
        if waiting and len(self._ids) - self._known <= _MAX_PENDING:
            return ""
        return self._give(text)

    def flush(self) -> str:
        return self._give(self._decode())

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=False)

    def _give(self, text: str) -> str:
        piece = text[self._given :]
        self._ids = self._ids[self._known :]
        self._known = len(self._ids)
        self._given = len(self._decode())
        return piece


class _Prefix:
    """How much of one stop string the text ends with, kept up character by character.

    The automaton of Knuth, Morris and Pratt (1977): ``_next[k]`` is the longest border of the
    first k + 1 characters, where matching goes on after a mismatch.
    """

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0
        self._next = [0] * len(stop)
        border = 0
        for at in range(1, len(stop)):
            border = self._step(border, stop[at])
            self._next[at] = border

    def push(self, char: str) -> bool:
        """Whether ``char`` completes the stop string."""
        self.length = self._step(self.length, char)
        complete = self.length == len(self.stop)
        if complete:
            self.length = self._next[-1]
        return complete

    def _step(self, length: int, char: str) -> int:
        while length and self.stop[length] != char:
            length = self._next[length - 1]
        return length + (self.stop[length] == char)


class StopFinder:
    """Cuts a text at the first stop string, wherever the borders between its pieces lie.

    The stop string that is complete first wins; of those complete at the same character, the
    longest. Only a suffix that may still become a stop string is held back. With ``include`` the
    text ends behind the stop string instead of before it.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        # the longest first: of those complete at once it is seen first
        self._prefixes = [_Prefix(stop) for stop in sorted(stops, key=len, reverse=True)]
        self._firsts = frozenset(stop[0] for stop in stops)
        self._include = include
        self._held = ""
        self.stop: str | None = None
        """The stop string that was found."""

    @property
    def found(self) -> bool:
        return self.stop is not None

    def push(self, piece: str, *, armed: bool = True) -> str:
        """The text that is now certain to lie before any stop string.

        Stop strings that are complete with this piece do not count unless ``armed``.
        """
        if self.found:
            return ""
        if not self._held and self._firsts.isdisjoint(piece):
            return piece
        text = self._held + piece
        for at, char in enumerate(piece, len(self._held) + 1):
            complete = [prefix.stop for prefix in self._prefixes if prefix.push(char)]
            if complete and armed:
                self.stop, self._held = complete[0], ""
                return text[: at if self._include else at - len(self.stop)]
        keep = len(text) - max(prefix.length for prefix in self._prefixes)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """The held-back text: nothing follows that could complete a stop string."""
        held, self._held = self._held, ""
        return held


class TextStream:
    """One choice's text. ``tokens`` counts ids taken, the one that completes a stop included.

    Stop strings that are complete with the first ``min_tokens`` tokens do not count.
    """

    def __init__(self, detokenizer: Detokenizer, finder: StopFinder, min_tokens: int = 0) -> None:
        self._detokenizer = detokenizer
        self._finder = finder
        self._min_tokens = min_tokens
        self.tokens = 0
        self.read = 0
        """Characters of all tokens taken, held back or not."""
        self.given = 0
        """Characters given out."""

    @property
    def stopped(self) -> bool:
        """A stop string was found; nothing more is taken."""
        return self._finder.found

    @property
    def stop(self) -> str | None:
        """The stop string that was found."""
        return self._finder.stop

    def take(self, token: int) -> str:
        """The text that may be sent now that ``token`` has come. Not called once stopped."""
        self.tokens += 1
        return self._find(self._detokenizer.push(token))

    def push(self, tokens: Iterable[int]) -> str:
        """Take tokens until a stop string is complete; the text that may be sent now."""
        pieces = []
        for token in tokens:
            if self.stopped:
                break
            pieces.append(self.take(token))
        return "".join(pieces)

    def flush(self) -> str:
        """End of the tokens: the rest of the text."""
        if self.stopped:
            return ""
        text = self._find(self._detokenizer.flush())
        rest = self._finder.flush()
        self.given += len(rest)
        return text + rest

    def _find(self, piece: str) -> str:
        self.read += len(piece)
        safe = self._finder.push(piece, armed=self.tokens > self._min_tokens)
        self.given += len(safe)
        return safe
