"""Token ids -> text that is safe to send: whole characters, no stop string. Pure.

Knows nothing of requests or engines.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

_REPLACEMENT = "\ufffd"
_MAX_PENDING = 64
"""Tokens that may wait for the rest of a character; a longer run is not a character."""


class Detokenizer:
    """Turns token ids into text one by one, never giving out half a character.

    The pieces join to what decoding all ids at once gives. (``tokenizers.decoders.DecodeStream``
    can neither be flushed nor bounded, and raises when bytes before a character were garbage.)
    Ids are kept in one window: [0, known) were given out and are context for the decoder's
    spacing rules, [known, end) still wait for the rest of a character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._known = 0
        self._given = 0  # characters that [0, known) decode to

    def push(self, token: int) -> str:
        """The text that ``token`` completes, often empty."""
        self._ids.append(token)
        text = self._decode()
        waiting = len(text) <= self._given or text.endswith(_REPLACEMENT)
        if waiting and len(self._ids) - self._known <= _MAX_PENDING:
            return ""
        return self._give(text)

    def flush(self) -> str:
        """What is left at the end; bytes that are not a character become U+FFFD."""
        return self._give(self._decode())

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=True)

    def _give(self, text: str) -> str:
        piece = text[self._given :]
        self._ids = self._ids[self._known :]
        self._known = len(self._ids)
        self._given = len(self._decode())
        return piece


class StopFinder:
    """Cuts a text at the first stop string, wherever the borders between its pieces lie.

    The stop string that is complete first wins; of those complete at the same character, the
    longest. Only a suffix that may still become a stop string is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that is now certain to lie before any stop string."""
        if not self._stops or self.found:
            return "" if self.found else piece
        text = self._held + piece
        cut = self._first(text)
        if cut is not None:
            self.found, self._held = True, ""
            return text[:cut]
        keep = self._hold(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The held-back text: nothing follows that could complete a stop string."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> int | None:
        ends = ((text.find(stop), stop) for stop in self._stops)
        matches = [(start + len(stop), start) for start, stop in ends if start >= 0]
        return min(matches)[1] if matches else None

    def _hold(self, text: str) -> int:
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for size in range(longest, 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0


class TextStream:
    """One choice's text. ``tokens`` counts ids taken, the one that completes a stop included."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._finder = StopFinder(stops)
        self.tokens = 0

    @property
    def stopped(self) -> bool:
        """A stop string was found; nothing more is taken."""
        return self._finder.found

    def push(self, tokens: Iterable[int]) -> str:
        """Take tokens until a stop string is complete; the text that may be sent now."""
        pieces = []
        for token in tokens:
            if self.stopped:
                break
            self.tokens += 1
            pieces.append(self._finder.push(self._detokenizer.push(token)))
        return "".join(pieces)

    def flush(self) -> str:
        """End of the tokens: the rest of the text."""
        if self.stopped:
            return ""
        return self._finder.push(self._detokenizer.flush()) + self._finder.flush()
