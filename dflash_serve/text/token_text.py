"""Token ids -> the bytes and text they stand for, one id at a time. Pure.

Knows byte-level vocabularies, SentencePiece's spaces and raw bytes, and added tokens.
"""

import json
import re
from collections.abc import Iterable

from tokenizers import Tokenizer

_META_SPACE = "\u2581"
_RAW_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenText:
    """What the ids of one tokenizer stand for; each is looked up once.

    Shared by all streams. Safe to use from several threads: the worst that happens is a second
    look-up of the same id.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.special = frozenset(token for token, entry in added.items() if entry.special)
        self._added = {token: entry.content for token, entry in added.items()}
        decoder = _decoder_spec(tokenizer)
        self.byte_level = decoder.get("type") == "ByteLevel"
        """Whether the text is the joined bytes: no token looks different next to others."""
        self._meta_space = _META_SPACE in json.dumps(decoder, ensure_ascii=False)
        self._data: dict[int, bytes] = {}

    def data(self, token: int) -> bytes:
        """The bytes of one token, which need not be whole characters; of control tokens, the name.

        An id that the vocabulary does not have has no bytes.
        """
        known = self._data.get(token)
        if known is None:
            known = self._data[token] = self._look_up(token)
        return known

    def text(self, token: int) -> str:
        """The text of one token alone; bytes that are no character become U+FFFD."""
        return self.data(token).decode("utf-8", "replace")

    def ids(self, names: Iterable[str]) -> frozenset[int]:
        """The ids of tokens with these names; names that are no token are left out."""
        found = (self.tokenizer.token_to_id(name) for name in names)
        return frozenset(token for token in found if token is not None)

    def _look_up(self, token: int) -> bytes:
        piece = self.tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self.byte_level:
            # as the decoder does it: a piece with a character that is no byte is plain text
            if all(char in _BYTES for char in piece):
                return bytes(_BYTES[char] for char in piece)
            return piece.encode()
        if token in self._added:
            return self._added[token].encode()
        if self._meta_space:
            raw = _RAW_BYTE.fullmatch(piece)
            return bytes.fromhex(raw[1]) if raw else piece.replace(_META_SPACE, " ").encode()
        return self.tokenizer.decode([token], skip_special_tokens=False).encode()


def _decoder_spec(tokenizer: Tokenizer) -> dict[str, object]:
    state = tokenizer.decoder.__getstate__() if tokenizer.decoder is not None else b"{}"
    return dict(json.loads(state))


def _byte_table() -> dict[str, int]:
    """Character -> byte of byte-level vocabularies: printable bytes are themselves.

    The others take the characters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTES = _byte_table()
