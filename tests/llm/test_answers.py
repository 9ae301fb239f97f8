"""What `LLM` returns, on the demo pair."""

import json
from dataclasses import replace

import pytest

from dflash_serve import LLM
from dflash_serve.llm import Answer, ChatOptions, Piece, Usage
from tests.llm.chats import COUNT, HELLO, POINT_FORMAT, SUMS, TOOL

MUST_CALL: ChatOptions = {
    "tools": [TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "temperature": 0,
    "max_tokens": 200,
}


def untimed(answer: Answer) -> Answer:
    """Without what depends on the clock and on the rows beside it."""
    return Answer(tuple(replace(choice, usage=Usage()) for choice in answer.choices))


@pytest.fixture(scope="module")
def plain() -> list[Answer]:
    """What the target alone says, one prompt at a time."""
    with LLM(drafter="none") as llm:
        return [untimed(llm.chat(chat, temperature=0, max_tokens=48)) for chat in SUMS]


def test_greedy_answers_are_those_of_plain_decoding(llm: LLM, plain: list[Answer]) -> None:
    answers = llm.chat(SUMS, temperature=0, max_tokens=48)
    assert [untimed(answer) for answer in answers] == plain
    assert len({answer.text for answer in answers}) == len(SUMS)


def test_more_prompts_than_the_queue_holds_are_all_answered(plain: list[Answer]) -> None:
    with LLM(max_batch=2, max_queue=1) as small:
        answers = small.chat(SUMS, temperature=0, max_tokens=48)
    assert [untimed(answer) for answer in answers] == plain


def test_one_prompt_gives_one_answer_and_several_a_list(llm: LLM) -> None:
    one = llm.generate("Hello", temperature=0, ignore_eos=True)
    ids = llm.generate([1, 2, 3], temperature=0, max_tokens=3)
    assert isinstance(one, Answer)
    assert isinstance(ids, Answer)
    assert one.usage.completion_tokens == len(one.token_ids) == 16
    assert llm.generate([], temperature=0) == []
    assert [untimed(each) for each in llm.generate(["Hello"], temperature=0, ignore_eos=True)] == [
        untimed(one)
    ]
    assert [untimed(each) for each in llm.generate([[1, 2, 3]], temperature=0, max_tokens=3)] == [
        untimed(ids)
    ]


def test_the_pieces_of_a_stream_join_to_the_answer(llm: LLM) -> None:
    answer = llm.chat(HELLO, temperature=0.8, seed=5, n=2, max_tokens=40)
    pieces = list(llm.stream_chat(HELLO, temperature=0.8, seed=5, n=2, max_tokens=40))
    for choice in untimed(answer).choices:
        own = [piece for piece in pieces if piece.index == choice.index]
        assert "".join(piece.text for piece in own) == choice.text
        assert [piece.choice is not None for piece in own] == [False] * (len(own) - 1) + [True]
        last = own[-1].choice
        assert last is not None
        assert replace(last, usage=Usage()) == choice
        assert len(own) > 1


def test_a_raw_stream_joins_to_what_generate_returns(llm: LLM) -> None:
    text = llm.generate("The ", temperature=0, max_tokens=20).text
    pieces = list(llm.stream("The ", temperature=0, max_tokens=20))
    assert "".join(piece.text for piece in pieces) == text


def test_a_seed_fixes_the_text_whatever_runs_beside_it(llm: LLM) -> None:
    alone = [
        llm.generate("Once", temperature=1, seed=seed, max_tokens=12).token_ids for seed in range(4)
    ]
    assert len(set(alone)) > 1
    beside = llm.generate(["Once"] * 4, temperature=1, seed=0, max_tokens=12)
    assert [answer.token_ids for answer in beside] == alone
    choices = llm.generate("Once", temperature=1, seed=0, n=4, max_tokens=12).choices
    assert [choice.token_ids for choice in choices] == alone


def test_an_answer_keeps_to_a_schema(llm: LLM) -> None:
    answers = llm.chat(SUMS[:5], temperature=0, max_tokens=120, response_format=POINT_FORMAT)
    for answer in answers:
        point = json.loads(answer.text)
        assert point.keys() == {"x", "y"}
        assert isinstance(point["x"], int)
        assert isinstance(point["y"], bool)


def test_an_answer_keeps_to_a_regex_a_choice_and_a_grammar(llm: LLM) -> None:
    assert llm.generate("1", regex="[0-9]{3}", temperature=0).text.isdigit()
    assert llm.generate("1", choice=("yes", "no"), temperature=0).text in ("yes", "no")
    assert llm.generate("1", grammar='start: "ab" "c"', temperature=0).text == "abc"


def test_a_tool_call_can_be_answered(llm: LLM) -> None:
    asked = llm.chat(HELLO, **MUST_CALL)
    (call,) = asked.tool_calls
    assert (call.name, asked.finish_reason, asked.text) == ("move_to", "tool_calls", "")
    assert json.loads(call.arguments).keys() == {"x", "y"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    chat = [*HELLO, asked.message, result]
    assert llm.chat(chat, tools=[TOOL], temperature=0, max_tokens=8).usage.prompt_tokens > (
        asked.usage.prompt_tokens
    )


def test_the_pieces_of_a_tool_call_join_to_its_arguments(llm: LLM) -> None:
    pieces = list(llm.stream_chat(HELLO, **MUST_CALL))
    calls = [piece.call for piece in pieces if piece.call is not None]
    last = pieces[-1].choice
    assert last is not None
    assert [call.name for call in calls] == ["move_to"] + [None] * (len(calls) - 1)
    assert "".join(call.arguments for call in calls) == last.tool_calls[0].arguments


def test_log_probabilities_come_with_their_tokens(llm: LLM) -> None:
    answer = llm.generate("Hello", temperature=0, max_tokens=5, logprobs=2)
    assert [entry.token for entry in answer.logprobs] == list(answer.token_ids)
    for entry in answer.logprobs:
        assert entry.top[0].token == entry.token
        assert len(entry.top) == 2
    pieces: list[Piece] = list(llm.stream("Hello", temperature=0, max_tokens=5, logprobs=2))
    assert tuple(entry for piece in pieces for entry in piece.logprobs) == answer.logprobs
    assert llm.generate("Hello", max_tokens=2).logprobs == ()


def test_sampling_options_reach_the_model(llm: LLM) -> None:
    free = llm.generate("Hello", temperature=0, max_tokens=8)
    banned = free.token_ids[0]
    biased = llm.generate("Hello", temperature=0, max_tokens=8, logit_bias={banned: -100})
    assert banned not in biased.token_ids
    assert llm.generate("Hello", top_k=1, max_tokens=8).token_ids == free.token_ids
    assert llm.generate("Hello", top_p=0, max_tokens=8).token_ids == free.token_ids
    free = llm.chat(COUNT, temperature=0, max_tokens=24)
    penalised = llm.chat(COUNT, temperature=0, max_tokens=24, repetition_penalty=1.9)
    assert len(set(penalised.token_ids)) > len(set(free.token_ids))


def test_a_stop_string_ends_the_text(llm: LLM) -> None:
    whole = llm.chat(HELLO, temperature=0, max_tokens=32)
    words = whole.text.split()
    word = words[len(words) // 2]
    cut = llm.chat(HELLO, temperature=0, max_tokens=32, stop=word)
    assert cut.text == whole.text[: whole.text.index(word)]
    assert (cut.finish_reason, cut.choices[0].stop_string) == ("stop", word)


def test_the_prompt_is_echoed_on_demand(llm: LLM) -> None:
    assert llm.generate("Hello", temperature=0, max_tokens=4, echo=True).text.startswith("Hello")


def test_the_statistics_are_the_request_s_own(llm: LLM) -> None:
    short, long = llm.chat([HELLO, COUNT], temperature=0, max_tokens=32, n=2)
    for answer in (short, long):
        for choice in answer.choices:
            usage = choice.usage
            assert usage.completion_tokens == len(choice.token_ids) <= 32
            assert 0 < usage.rounds < usage.completion_tokens
            assert 0 < usage.accepted <= usage.drafted
            assert usage.tokens_per_round > 1
            assert usage.tokens_per_second > 0
            assert usage.time_to_first_token > 0
