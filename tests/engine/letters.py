"""A tokenizer of 96 tokens, one letter each and a few words, for the tiny pair's vocabulary."""

import json
from collections.abc import Sequence

from tokenizers import Tokenizer

from dflash_serve.engine.grammar import GrammarCompiler

END = 0
THINK, THOUGHT = 1, 2
"""Control tokens that open and close reasoning."""
LETTERS = [chr(code) for code in range(0x21, 0x7F)]
VOCAB = 96


def tokenizer_json() -> str:
    """Byte-level BPE: some printable letters are missing to make room for words."""
    letters = [letter for letter in LETTERS if letter not in "%&'()*+/;<=>?@"]
    merges = [("t", "r"), ("f", "a"), ("n", "a"), ("1", "2"), ('"', ":"), ("{", '"'), ('"', "}")]
    merges += [("u", "e"), ("tr", "ue"), ("l", "s"), ("ls", "e"), ("fa", "lse"), ("u", "l")]
    words = [left + right for left, right in merges]
    entries = ["<end>", "<think>", "</think>", *letters, *words]
    assert len(entries) <= VOCAB, len(entries)
    vocabulary = {entry: at for at, entry in enumerate(entries)}
    added = [
        {"id": at, "content": entries[at], "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for at in (END, THINK, THOUGHT)
    ]
    model = {"type": "BPE", "vocab": vocabulary, "merges": [list(pair) for pair in merges]}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    spec = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level | {"use_regex": False},
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }
    return json.dumps(spec)


def compiler() -> GrammarCompiler:
    return GrammarCompiler(tokenizer_json(), VOCAB, [END])


_TOKENIZER = Tokenizer.from_str(tokenizer_json())


def ids(text: str) -> list[int]:
    """The tokens of ``text``."""
    found: list[int] = _TOKENIZER.encode(text).ids
    return found


def text_of(tokens: Sequence[int]) -> str:
    """The text of ``tokens``."""
    text: str = _TOKENIZER.decode(list(tokens))
    return text
