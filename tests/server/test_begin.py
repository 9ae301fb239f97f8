"""Any door's request, begun: prompts, room, seeds, echo, reasoning."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dflash_serve.engine.types import SamplingParams
from dflash_serve.server.ask import Ask, ChatPrompt, RawPrompt, Thinking
from dflash_serve.server.begin import begin
from dflash_serve.server.deltas import Delta, EndDelta, TextDelta
from dflash_serve.server.errors import ApiError
from dflash_serve.server.settings import Settings
from dflash_serve.text.parsers import table
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import CHATML, FakeEngine, make_context, model_card, save_tokenizer, saying

HELLO = ChatPrompt(({"role": "user", "content": "hello"},))


def ask(prompt: ChatPrompt | RawPrompt = HELLO, **changes: Any) -> Ask:
    return replace(Ask(prompt, SamplingParams(temperature=1.0, seed=5)), **changes)


def answer(
    engine: FakeEngine, tokenizer: ChatTokenizer, wanted: Ask, **context: Any
) -> list[Delta]:
    async def main() -> list[Delta]:
        facts = make_context(engine, tokenizer, Settings(), **context)
        generation = await begin(wanted, facts, "name")
        return [delta async for delta in generation.deltas()]

    return asyncio.run(main())


@pytest.fixture
def engine(tokenizer: ChatTokenizer) -> FakeEngine:
    return FakeEngine(saying(tokenizer, "hello world"))


def text_of(deltas: list[Delta], index: int = 0) -> str:
    return "".join(d.text for d in deltas if isinstance(d, TextDelta) and d.index == index)


@pytest.mark.parametrize(("wanted", "given"), [(None, 492), (1, 1), (492, 492), (10**30, 492)])
def test_the_answer_ends_where_the_context_does(
    engine: FakeEngine, tokenizer: ChatTokenizer, wanted: int | None, given: int
) -> None:
    prompt = RawPrompt(tokens=tuple(range(20)))
    answer(engine, tokenizer, ask(prompt, max_tokens=wanted))
    assert engine.requests[0].max_tokens == given


@pytest.mark.parametrize("size", [512, 513, 5000])
def test_a_prompt_without_room_for_an_answer(
    engine: FakeEngine, tokenizer: ChatTokenizer, size: int
) -> None:
    with pytest.raises(ApiError, match=rf"{size} tokens long.*512 tokens") as caught:
        answer(engine, tokenizer, ask(RawPrompt(tokens=(1,) * size)))
    assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")


@pytest.mark.parametrize("prompt", [RawPrompt(""), RawPrompt(tokens=())])
def test_an_empty_prompt_is_an_error_of_its_own(
    engine: FakeEngine, tokenizer: ChatTokenizer, prompt: RawPrompt
) -> None:
    with pytest.raises(ApiError, match="empty") as caught:
        answer(engine, tokenizer, ask(prompt))
    assert (caught.value.status, caught.value.code) == (400, "empty_prompt")


@pytest.mark.parametrize("token", [512, -1, 10**12])
def test_token_ids_beyond_the_vocabulary(
    engine: FakeEngine, tokenizer: ChatTokenizer, token: int
) -> None:
    with pytest.raises(ApiError, match=f"0 to 511, but one is {token}") as caught:
        answer(engine, tokenizer, ask(RawPrompt(tokens=(1, token))))
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("prompt", [RawPrompt("hello"), HELLO])
def test_text_of_tokens_that_the_model_has_no_row_for(
    engine: FakeEngine, tokenizer: ChatTokenizer, prompt: ChatPrompt | RawPrompt
) -> None:
    with pytest.raises(ApiError, match="0 to 4, but one is") as caught:
        answer(engine, tokenizer, ask(prompt), model=model_card(vocab_size=5))
    assert (caught.value.status, caught.value.param) == (400, prompt.param)
    assert not engine.requests


def test_what_the_template_refuses_names_the_doors_own_field(
    engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    prompt = ChatPrompt(({"role": "wizard", "content": "hi"},), param="input")
    with pytest.raises(ApiError, match="no such role: wizard") as caught:
        answer(engine, tokenizer, ask(prompt))
    assert (caught.value.param, caught.value.code) == ("input", "template_error")


def test_choices_have_ids_and_seeds_of_their_own(
    engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    sampling = SamplingParams(temperature=1.0, seed=2**63 - 1)
    answer(engine, tokenizer, ask(n=3, sampling=sampling))
    assert [request.id for request in engine.requests] == ["name-0", "name-1", "name-2"]
    assert [request.group for request in engine.requests] == ["name"] * 3
    seeds = [request.sampling.seed for request in engine.requests]
    assert seeds == [2**63 - 1, -(2**63), -(2**63) + 1]


def test_raw_text_reads_control_tokens_and_knows_no_markup(
    engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, "<think>hm</think>ok")
    deltas = answer(engine, tokenizer, ask(RawPrompt("<|im_start|>user")))
    assert tokenizer.decode(engine.requests[0].prompt) == "<|im_start|>user"
    assert text_of(deltas) == "<think>hm</think>ok"
    assert all(delta.channel.value == "content" for delta in deltas if isinstance(delta, TextDelta))


@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("text", [True, False])
def test_an_echo_puts_the_prompt_first(
    engine: FakeEngine, tokenizer: ChatTokenizer, logprobs: int | None, text: bool
) -> None:
    ids = tokenizer.encode_raw("é and so")
    prompt = RawPrompt("é and so") if text else RawPrompt(tokens=ids)
    deltas = answer(engine, tokenizer, ask(prompt, echo=True, logprobs=logprobs, n=2))
    for index in range(2):
        assert text_of(deltas, index) == "é and sohello world"
    entries = [e for d in deltas if d.index == 0 for e in d.logprobs]
    if logprobs is None:
        assert entries == []
        assert engine.requests[0].prompt_logprobs is None
    else:
        assert b"".join(e.data for e in entries).decode() == "é and sohello world"
        assert [e.logprob is None for e in entries] == [True] + [False] * (len(entries) - 1)
        assert all(len(e.top) == 1 for e in entries[1:])


def test_max_tokens_of_0_is_the_prompt_alone(engine: FakeEngine, tokenizer: ChatTokenizer) -> None:
    wanted = ask(RawPrompt("hello"), echo=True, logprobs=0, max_tokens=0)
    deltas = answer(engine, tokenizer, wanted)
    assert text_of(deltas) == "hello"
    assert engine.requests[0].max_tokens == 1
    [end] = [delta for delta in deltas if isinstance(delta, EndDelta)]
    assert (end.finish, end.usage.completion_tokens) == ("length", 0)


def test_the_end_names_the_stop_string(engine: FakeEngine, tokenizer: ChatTokenizer) -> None:
    ends = [
        answer(engine, tokenizer, ask(stop=stop))[-1]
        for stop in (("wor", "nothing"), ("nothing",), ())
    ]
    assert [end.stop_string for end in ends if isinstance(end, EndDelta)] == ["wor", None, None]


def test_a_prompt_that_ends_inside_the_reasoning(tmp_path: Path) -> None:
    opened = CHATML.replace(
        "{%- if enable_thinking is defined",
        "{%- if enable_thinking is not defined or enable_thinking %}{{- '<think>\\n' }}{%- endif %}"
        "{%- if enable_thinking is defined",
    )
    tokenizer = ChatTokenizer.load(save_tokenizer(tmp_path, opened))
    engine = FakeEngine(saying(tokenizer, "hm</think>yes"))
    on, off = Thinking(budget=5), Thinking(enabled=False, budget=5)
    deltas = answer(engine, tokenizer, ask(thinking=on))
    said = {"reasoning": "", "content": ""}
    for delta in deltas:
        if isinstance(delta, TextDelta):
            said[delta.channel.value] += delta.text
    assert said == {"reasoning": "hm", "content": "yes"}
    answer(engine, tokenizer, ask(thinking=off))
    first, second = [request.thinking for request in engine.requests]
    assert first is not None
    assert (first.begun, first.budget) == (True, 5)
    assert second is None
    markup = table.by_name("json")
    assert text_of(answer(engine, tokenizer, ask(), markup=markup)) == "hm</think>yes"


def test_history_and_user_text_do_not_open_the_reasoning(
    engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, "plain")
    messages = (
        {"role": "assistant", "content": "<think>never closed"},
        {"role": "user", "content": "<think>"},
    )
    deltas = answer(engine, tokenizer, ask(ChatPrompt(messages)))
    assert {d.channel.value for d in deltas if isinstance(d, TextDelta)} == {"content"}
