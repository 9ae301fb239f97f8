"""The bytes of single tokens, for every kind of vocabulary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from dflash_serve.text.stream import Detokenizer
from dflash_serve.text.token_text import TokenText
from dflash_serve.text.tokenizer import ChatTokenizer


@given(st.text(max_size=30))
def test_bytes_of_tokens_join_to_the_texts(tokenizer: ChatTokenizer, text: str) -> None:
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert b"".join(map(tokenizer.token_text.data, ids)) == text.encode()


def test_every_byte_has_a_token_that_is_it(tokenizer: ChatTokenizer) -> None:
    table = tokenizer.token_text
    known = {table.data(token) for token in range(tokenizer.backend.get_vocab_size())}
    assert {bytes([byte]) for byte in range(256)} <= known


@given(st.lists(st.integers(0, 309), max_size=40))
def test_a_byte_level_text_is_what_the_backend_decodes(
    tokenizer: ChatTokenizer, ids: list[int]
) -> None:
    detokenizer = Detokenizer(tokenizer.token_text)
    text = "".join(map(detokenizer.push, ids)) + detokenizer.flush()
    assert text == tokenizer.backend.decode(ids)


def test_half_a_character_has_its_bytes(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.backend.encode("\U0001f600").ids
    assert len(ids) > 1
    assert [tokenizer.token_text.data(token) for token in ids] == [
        bytes([byte]) for byte in "\U0001f600".encode()
    ]
    assert tokenizer.token_text.text(ids[0]) == "\ufffd"


@pytest.mark.parametrize("name", ["<|im_end|>", "<think>"])
def test_control_tokens_are_their_names(tokenizer: ChatTokenizer, name: str) -> None:
    [token] = tokenizer.token_text.ids([name])
    assert tokenizer.token_text.text(token) == name


def test_ids_beyond_the_vocabulary_have_no_bytes(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.token_text.data(500) == b""


def test_added_tokens_with_spaces_and_accents() -> None:
    backend = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken("two words"), AddedToken("\u20ac\u2581")])
    table = TokenText(backend)
    assert [table.data(token) for token in (1, 2)] == [b"two words", "\u20ac\u2581".encode()]
    detokenizer = Detokenizer(table)
    assert "".join(map(detokenizer.push, [1, 0, 2])) == backend.decode([1, 0, 2])


def test_sentencepiece_pieces() -> None:
    vocab = {"<0x0A>": 0, "<0xF0>": 1, "\u2581a": 2, "<unk>": 3}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(["<s>"])
    table = TokenText(backend)
    assert [table.data(token) for token in (0, 1, 2, 4)] == [b"\n", b"\xf0", b" a", b"<s>"]


def test_any_other_vocabulary() -> None:
    backend = Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "play": 1, "##ing": 2}))
    backend.decoder = decoders.WordPiece()
    table = TokenText(backend)
    assert not table.byte_level
    assert table.data(1) == b"play"
