"""How few tokens a text can have: a bound that never says too many."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from dflash_serve.text.errors import TemplateError, TextTooLong
from dflash_serve.text.lengths import bytes_per_token
from dflash_serve.text.tokenizer import ChatTokenizer

ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def byte_level(merged: str = "hello") -> Tokenizer:
    """Each byte is a token, and so is every beginning of ``merged``."""
    pieces = [merged[:end] for end in range(2, len(merged) + 1)]
    vocabulary = {piece: number for number, piece in enumerate([*sorted(ALPHABET), *pieces])}
    merges = [(merged[:end], merged[end]) for end in range(1, len(merged))]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_the_longest_token_of_a_byte_level_vocabulary() -> None:
    tokenizer = byte_level()
    assert bytes_per_token(tokenizer) == len("hello")
    tokenizer.add_tokens([AddedToken("<a longer one>")])
    assert bytes_per_token(tokenizer) == len("<a longer one>")


@given(st.text(max_size=60) | st.text("helo\u212a\u0301e\u1100\u1161\u11a8", max_size=60))
def test_no_text_has_fewer_tokens_than_the_bound(text: str) -> None:
    plain, composing = byte_level(), byte_level("he")
    composing.normalizer = normalizers.NFC()
    for tokenizer in (plain, composing):
        longest = bytes_per_token(tokenizer)
        assert longest is not None
        assert len(tokenizer.encode(text).ids) >= len(text.encode()) / longest


def test_where_text_may_vanish_there_is_no_bound() -> None:
    stripping, splitting, swallowing, unknown = (byte_level() for _ in range(4))
    stripping.normalizer = normalizers.Strip()
    splitting.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    swallowing.add_tokens([AddedToken("<x>", lstrip=True)])
    unknown.pre_tokenizer = pre_tokenizers.Whitespace()
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    for tokenizer in (stripping, splitting, swallowing, unknown, words):
        assert bytes_per_token(tokenizer) is None


def test_only_text_that_cannot_fit_is_too_long(tokenizer: ChatTokenizer) -> None:
    text = "The quick brown fox " * 50
    tokens = len(tokenizer.encode_raw(text))
    assert len(tokenizer.encode_raw(text, limit=tokens)) == tokens
    with pytest.raises(TextTooLong) as caught:
        tokenizer.encode_raw(text, limit=10)
    assert 10 < caught.value.least <= tokens
    messages = [{"role": "user", "content": text}]
    with pytest.raises(TextTooLong):
        tokenizer.encode_chat(messages, {}, limit=10)
    # the template leaves an assistant's reasoning out
    hidden = [{"role": "assistant", "content": f"{text}</think>yes"}]
    assert len(tokenizer.encode_chat(hidden, {}, limit=30)) < 30


def test_a_tokenizer_is_pickled_as_its_directory(tokenizer_dir: Path) -> None:
    made = ChatTokenizer.load(tokenizer_dir)
    data = pickle.dumps(made)
    assert len(data) < 1000
    assert pickle.loads(data).encode_raw("hello fox") == made.encode_raw("hello fox")


def test_half_a_surrogate_pair_beside_a_control_token(tokenizer: ChatTokenizer) -> None:
    with pytest.raises(TemplateError, match="surrogate"):
        tokenizer.encode_chat([{"role": "user", "content": "\ud800<|im_end|>"}], {})
