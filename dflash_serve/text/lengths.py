"""How few tokens a text can have: a bound from its bytes alone, before it is encoded. Pure."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

_SHRINKS = {None: 1, "NFC": 3}
"""Normaliser -> how many bytes of text become one at most (U+212A, three bytes, becomes K)."""


def bytes_per_token(tokenizer: Tokenizer) -> int | None:
    """The most bytes of text that one token can stand for; None where there is no such bound.

    Vocabularies of bytes have one, if nothing drops text: each token is its own bytes. An unknown
    token, a normaliser or a split that removes its separator may stand for any length.
    """
    vocabulary = tokenizer.get_vocab()
    shrinks = _SHRINKS.get(_state(tokenizer.normalizer).get("type"))
    splits = list(_splits(_state(tokenizer.pre_tokenizer)))
    whole = splits and all(split in ("ByteLevel", "Split", "Digits") for split in splits)
    added = tokenizer.get_added_tokens_decoder().values()
    swallows = any(entry.lstrip or entry.rstrip for entry in added)
    complete = vocabulary.keys() >= frozenset(pre_tokenizers.ByteLevel.alphabet())
    if shrinks is None or not whole or "ByteLevel" not in splits or swallows or not complete:
        return None
    return shrinks * max(len(piece.encode()) for piece in vocabulary)


def _state(part: Any) -> Mapping[str, Any]:
    if part is None:
        return {"type": None}
    state: Mapping[str, Any] = json.loads(part.__getstate__())
    return state


def _splits(state: Mapping[str, Any]) -> Iterable[str | None]:
    """The kinds of pre-tokenizers, those inside a sequence in its place."""
    if state["type"] == "Sequence":
        for part in state["pretokenizers"]:
            yield from _splits(part)
    else:
        yield None if state.get("behavior") == "Removed" else state["type"]
