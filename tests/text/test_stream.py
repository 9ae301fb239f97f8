"""Detokenizing and stop strings: the same result however tokens and text are cut up."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from dflash_serve.text.stream import Detokenizer, StopFinder, TextStream
from dflash_serve.text.token_text import TokenText
from dflash_serve.text.tokenizer import ChatTokenizer


def text_stream(tokenizer: ChatTokenizer, stops: Sequence[str] = (), **options: Any) -> TextStream:
    finder = StopFinder(stops, options.pop("include", False))
    return TextStream(Detokenizer(tokenizer.token_text), finder, **options)


def oracle(text: str, stops: list[str]) -> str:
    """The text before the stop string that is complete first, read character by character."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    alphabet = st.sampled_from("ab<|>é\U0001f600")
    pieces = draw(st.lists(st.text(alphabet, max_size=5), max_size=12))
    stops = draw(st.lists(st.text(alphabet, min_size=1, max_size=4), max_size=4))
    return pieces, stops


@given(cut_texts())
def test_a_stop_string_is_found_across_any_borders(case: tuple[list[str], list[str]]) -> None:
    pieces, stops = case
    finder = StopFinder(stops)
    got = "".join(map(finder.push, pieces)) + finder.flush()
    whole = "".join(pieces)
    assert got == oracle(whole, stops)
    assert finder.found == any(stop in whole for stop in stops)


@given(cut_texts())
def test_only_what_may_become_a_stop_string_is_held_back(
    case: tuple[list[str], list[str]],
) -> None:
    pieces, stops = case
    finder, given_out, seen = StopFinder(stops), "", ""
    for piece in pieces:
        given_out += finder.push(piece)
        seen += piece
        if finder.found:
            break
        held = seen[len(given_out) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_one_long_text_may_hold_several_stop_strings() -> None:
    finder = StopFinder(["END", "ND"])
    assert finder.push("the END is the END") == "the "
    assert finder.push("more") == ""
    assert finder.flush() == ""


@given(st.text(max_size=30))
def test_pieces_join_to_the_text(tokenizer: ChatTokenizer, text: str) -> None:
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    detokenizer = Detokenizer(tokenizer.token_text)
    pieces = [detokenizer.push(token) for token in ids] + [detokenizer.flush()]
    assert "".join(pieces) == text
    for piece in pieces:
        assert "\ufffd" not in piece or "\ufffd" in text


@given(st.lists(st.integers(0, 255), max_size=40))
def test_any_bytes_join_to_what_decoding_at_once_gives(
    tokenizer: ChatTokenizer, ids: list[int]
) -> None:
    detokenizer = Detokenizer(tokenizer.token_text)
    pieces = [detokenizer.push(token) for token in ids] + [detokenizer.flush()]
    assert "".join(pieces) == tokenizer.backend.decode(ids)


def test_half_a_character_waits_and_becomes_a_replacement_at_the_end(
    tokenizer: ChatTokenizer,
) -> None:
    ids = tokenizer.backend.encode("a\U0001f600").ids
    detokenizer = Detokenizer(tokenizer.token_text)
    assert [detokenizer.push(token) for token in ids[:-1]] == ["a", "", "", ""]
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


def test_an_endless_run_of_garbage_is_given_out_now_and_then(tokenizer: ChatTokenizer) -> None:
    continuation = tokenizer.backend.encode("é").ids[-1]
    detokenizer = Detokenizer(tokenizer.token_text)
    pieces = [detokenizer.push(continuation) for _ in range(500)]
    assert len("".join(pieces)) > 400


def test_control_tokens_are_not_text(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.backend.encode("a<|im_end|>b").ids
    stream = text_stream(tokenizer)
    assert stream.push(ids) + stream.flush() == "ab"


def byte_fallback_tokenizer() -> Tokenizer:
    """As SentencePiece vocabularies are: pieces with a meta space, and raw bytes."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab |= {"<unk>": 256, "\u2581a": 257, "\u2581b": 258}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return backend


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([257, 258, 257], "a b a"),
        ([257, 0xF0, 0x9F, 0x98, 0x80, 258], "a\U0001f600 b"),
        ([0xF0, 0x9F, 0x98, 0x80, 0xF0, 257], "\U0001f600\ufffd\ufffd\ufffd\ufffd a"),
    ],
)
def test_sentencepiece_spaces_and_bytes(ids: list[int], text: str) -> None:
    detokenizer = Detokenizer(TokenText(byte_fallback_tokenizer()))
    assert "".join([*map(detokenizer.push, ids), detokenizer.flush()]) == text


@given(st.text(st.sampled_from("abE ND\U0001f600é"), max_size=40), st.data())
def test_a_stream_stops_at_the_token_that_completes_the_stop_string(
    tokenizer: ChatTokenizer, text: str, data: st.DataObject
) -> None:
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    stream, got, rest = text_stream(tokenizer, ["END"]), "", ids
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        got, rest = got + stream.push(rest[:size]), rest[size:]
    got += stream.flush()
    assert got == oracle(text, ["END"])
    assert stream.stopped == ("END" in text)
    if stream.stopped:
        assert "END" in tokenizer.backend.decode(ids[: stream.tokens])
        assert "END" not in tokenizer.backend.decode(ids[: stream.tokens - 1])
    else:
        assert stream.tokens == len(ids)


@given(cut_texts(), st.integers(0, 6))
def test_stop_strings_of_the_first_pieces_do_not_count(
    case: tuple[list[str], list[str]], unarmed: int
) -> None:
    pieces, stops = case
    finder = StopFinder(stops)
    got = "".join(finder.push(piece, armed=at >= unarmed) for at, piece in enumerate(pieces))
    got += finder.flush()
    whole, free = "".join(pieces), len("".join(pieces[:unarmed]))
    ends = [
        (end, min(end - len(stop) for stop in stops if whole[:end].endswith(stop)))
        for end in range(free + 1, len(whole) + 1)
        if any(whole[:end].endswith(stop) for stop in stops)
    ]
    assert got == (whole[: ends[0][1]] if ends else whole)


@given(cut_texts())
def test_an_included_stop_string_ends_the_text(case: tuple[list[str], list[str]]) -> None:
    pieces, stops = case
    finder = StopFinder(stops, include=True)
    got = "".join(map(finder.push, pieces)) + finder.flush()
    whole = "".join(pieces)
    if finder.stop is None:
        assert got == whole
    else:
        assert got == oracle(whole, stops) + finder.stop
        assert whole.startswith(got)


def test_kept_control_tokens_become_their_names(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.backend.encode("a<|im_start|>b<|im_end|>c").ids
    kept = tokenizer.token_text.ids(["<|im_start|>", "no such token"])
    detokenizer = Detokenizer(tokenizer.token_text, kept)
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == "a<|im_start|>bc"


def test_given_and_read_count_characters(tokenizer: ChatTokenizer) -> None:
    stream = text_stream(tokenizer, ["xyz"])
    said = "".join(stream.take(token) for token in tokenizer.backend.encode("ab xy").ids)
    assert (said, stream.given, stream.read) == ("ab ", 3, 5)
    assert stream.flush() == "xy"
    assert stream.given == 5
