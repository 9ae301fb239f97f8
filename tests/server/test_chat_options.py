"""Chat completions' parameters: what the engine is asked for, and what clients see of it."""

import math
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from dflash_serve.engine.types import LogitRules
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, Script, saying
from tests.server import shapes

URL = "/v1/chat/completions"
TEXT = "hello world, é\U0001f600 and END of it"
GOOD: dict[str, Any] = {"model": "fake/model", "messages": [{"role": "user", "content": "hi"}]}


def whole(http: httpx.Client, **fields: Any) -> Any:
    answer = http.post(URL, json=GOOD | fields)
    assert answer.status_code == 200, answer.text
    return shapes.completion(answer.content)


def streamed(http: httpx.Client, **fields: Any) -> list[Any]:
    answer = http.post(URL, json=GOOD | fields | {"stream": True})
    assert answer.status_code == 200, answer.text
    return shapes.chunks(answer.text)


def entries_of(chunks: list[Any]) -> list[Any]:
    probs = [c.choices[0].logprobs for c in chunks if c.choices and c.choices[0].logprobs]
    return [entry for each in probs for entry in each.content]


def test_rules_reach_the_engine(http: httpx.Client, engine: FakeEngine) -> None:
    whole(
        http,
        logit_bias={"7": 5, "8": -100.0, "9": 0},
        presence_penalty=1,
        frequency_penalty=-0.5,
        repetition_penalty=1.1,
        min_tokens=3,
    )
    assert engine.requests[0].rules == LogitRules(
        bias=((7, 5.0), (8, -100.0)),
        presence=1.0,
        frequency=-0.5,
        repetition=1.1,
        min_tokens=3,
    )
    whole(http, logit_bias={}, presence_penalty=0, repetition_penalty=1.0, min_tokens=0)
    assert engine.requests[1].rules.neutral


def test_choices_of_a_request_are_one_group(http: httpx.Client, engine: FakeEngine) -> None:
    answer = whole(http, n=3)
    assert {request.group for request in engine.requests} == {answer.id}
    assert len({request.id for request in engine.requests}) == 3


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("wanted", [5, 5.0, 512, 100_000, 10**30])
def test_max_tokens_end_with_the_room_there_is(
    http: httpx.Client, engine: FakeEngine, field: str, wanted: float
) -> None:
    whole(http, **{field: wanted})
    request = engine.requests[0]
    assert request.max_tokens == min(wanted, engine.max_context - len(request.prompt))


@pytest.mark.parametrize("value", [0, 0.0])
def test_top_p_of_0_is_the_most_likely_token(
    http: httpx.Client, engine: FakeEngine, value: float
) -> None:
    whole(http, top_p=value, temperature=1)
    sampling = engine.requests[0].sampling
    assert sampling.greedy
    assert 0 < sampling.top_p <= 1


@pytest.mark.parametrize("field", ["top_k", "seed", "n", "min_tokens", "top_logprobs"])
def test_integers_may_be_written_with_a_point(http: httpx.Client, field: str) -> None:
    whole(http, logprobs=True, **{field: 1.0})
    refused = http.post(URL, json=GOOD | {field: 1.5})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == field


def test_log_probabilities_of_a_whole_answer(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    ids = tokenizer.backend.encode(TEXT, add_special_tokens=False).ids
    probs = whole(http, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert [entry.logprob for entry in probs.content] == [-token / 1000 for token in ids]
    joined = b"".join(bytes(entry.bytes) for entry in probs.content)
    assert joined.decode() == TEXT
    halves = [entry for entry in probs.content if "\ufffd" in entry.token]
    assert halves, "no token of the smiley is half a character"
    for token, entry in zip(ids, probs.content, strict=True):
        first, second = entry.top_logprobs
        assert (first.token, first.bytes, first.logprob) == (
            entry.token,
            entry.bytes,
            entry.logprob,
        )
        assert second.bytes == list(tokenizer.token_text.data(0))
        assert math.isclose(second.logprob, -9.0)
        assert token
    assert engine.requests[0].logprobs == 2


@pytest.mark.parametrize(("asked", "top"), [({"logprobs": True}, 0), ({}, None)])
def test_top_log_probabilities_are_not_given_unasked(
    http: httpx.Client, engine: FakeEngine, asked: dict[str, Any], top: int | None
) -> None:
    answer = whole(http, **asked)
    assert engine.requests[0].logprobs == top
    probs = answer.choices[0].logprobs
    assert (probs is None) == (top is None)
    assert probs is None or all(entry.top_logprobs == [] for entry in probs.content)


@pytest.mark.parametrize("stop", [None, "dog", "it!", "END"])
def test_streamed_log_probabilities_come_with_their_text(
    http: httpx.Client, tokenizer: ChatTokenizer, stop: str | None
) -> None:
    chunks = streamed(http, logprobs=True, stop=stop)
    said = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert said == (TEXT if stop != "END" else TEXT[: TEXT.index("END")])
    data = b""
    for at, chunk in enumerate(chunks):
        data += b"".join(bytes(entry.bytes) for entry in entries_of([chunk]))
        seen = "".join(c.choices[0].delta.content or "" for c in chunks[: at + 1]).encode()
        assert data.startswith(seen), "a text was sent before the log-probabilities of its tokens"
    whole_entries = whole(http, logprobs=True, stop=stop).choices[0].logprobs.content
    assert [e.bytes for e in entries_of(chunks)] == [e.bytes for e in whole_entries]
    assert data.decode() == said


def test_no_log_probability_is_lost_where_no_text_follows(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    [im_start] = tokenizer.token_text.ids(["<|im_start|>"])
    engine.script = lambda request: Script(((im_start,), (im_start,)))
    assert len(entries_of(streamed(http, logprobs=True))) == 2
    assert len(whole(http, logprobs=True).choices[0].logprobs.content) == 2


def test_stop_tokens_and_the_models_own(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    own = tokenizer.token_text.ids(["<|im_end|>"])
    whole(http, stop_token_ids=[3, 4])
    whole(http, stop_token_ids=[3], ignore_eos=True)
    whole(http, ignore_eos=True)
    assert [request.stop_tokens for request in engine.requests] == [
        own | {3, 4},
        frozenset({3}),
        frozenset(),
    ]


def test_a_stop_string_can_be_part_of_the_text(http: httpx.Client) -> None:
    cut = TEXT[: TEXT.index("END")]
    for wanted, text in ((False, cut), (None, cut), (True, cut + "END")):
        fields = {"stop": ["END"], "include_stop_str_in_output": wanted}
        assert whole(http, **fields).choices[0].message.content == text
        assert "".join(c.choices[0].delta.content or "" for c in streamed(http, **fields)) == text


def test_a_stop_token_can_be_part_of_the_text(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    [token] = tokenizer.backend.encode("!", add_special_tokens=False).ids
    engine.script = saying(tokenizer, "hello", stop_token=token)
    fields = {"stop_token_ids": [token], "logprobs": True}
    plain = whole(http, **fields).choices[0]
    shown = whole(http, **fields, include_stop_str_in_output=True).choices[0]
    assert (plain.message.content, shown.message.content) == ("hello", "hello!")
    assert len(shown.logprobs.content) == len(plain.logprobs.content) + 1


def test_no_stop_string_before_min_tokens(http: httpx.Client, tokenizer: ChatTokenizer) -> None:
    before = len(tokenizer.backend.encode(TEXT[: TEXT.index("END") + 3]).ids)
    stopped = whole(http, stop="END", min_tokens=before - 1).choices[0].message.content
    assert stopped == TEXT[: TEXT.index("END")]
    assert whole(http, stop="END", min_tokens=before).choices[0].message.content == TEXT


def test_usage_can_come_with_every_chunk(http: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = streamed(http, stream_options=options)
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] < last.usage.completion_tokens
    assert {chunk.usage.prompt_tokens for chunk in chunks} == {last.usage.prompt_tokens}
    assert chunks[-1].usage.completion_tokens == last.usage.completion_tokens


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"response_format": {"type": "json_object"}}, ['{"a": [1]}']),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "n",
                        "description": "d",
                        "strict": True,
                        "schema": {"type": "integer"},
                    },
                }
            },
            ["42"],
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}, ["{}"]),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "schema": {
                            "$schema": "http://json-schema.org/draft-07/schema#",
                            "type": "array",
                            "uniqueItems": True,
                            "items": {"oneOf": [{"const": 1}, {"const": 2}]},
                            "x-guidance": {"whitespace_pattern": ".*"},
                        }
                    },
                }
            },
            ["[1, 2]", "[]"],
        ),
        ({"regex": "[ab]{2}"}, ["ab"]),
        ({"choice": ["yes", 'n"o']}, ["yes", 'n"o']),
        ({"grammar": 'start: "x" /[0-9]+/'}, ["x12"]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_formats_become_grammars(
    http: httpx.Client,
    engine: FakeEngine,
    tokenizer: ChatTokenizer,
    fields: dict[str, Any],
    texts: list[str],
) -> None:
    whole(http, **fields)
    grammar: Any = engine.requests[0].grammar
    ids = {tokenizer.token_text.data(token): token for token in range(310)}
    for text, good in [*((text, True) for text in texts), ("hello", False)]:
        matcher = grammar.start()
        tokens = [ids[bytes([byte])] for byte in text.encode()]
        taken = matcher.try_consume_tokens(tokens)
        assert (taken == len(tokens) and matcher.is_accepting()) == good


def test_plain_text_has_no_grammar(http: httpx.Client, engine: FakeEngine) -> None:
    whole(http, response_format={"type": "text"})
    assert engine.requests[0].grammar is None


class Point(BaseModel):
    at: int


def test_the_sdks_parsed_answers(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, '{"at": 5}')
    asked: list[Any] = [{"role": "user", "content": "where?"}]
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.parse(
            model="fake/model", messages=asked, response_format=Point
        )
        message = answer.choices[0].message
        assert message.parsed == Point(at=5)
        history: list[Any] = [*asked, message.model_dump(warnings=False), *asked]
        client.chat.completions.create(model="fake/model", messages=history)
    assert engine.requests[0].grammar is not None
    assert '{"at": 5}' in tokenizer.decode(engine.requests[1].prompt)
