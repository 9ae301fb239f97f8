"""Text completions over a real socket, through OpenAI's own client."""

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion

from dflash_serve.engine.errors import QueueFull
from dflash_serve.engine.types import EngineRequest, FinishReason, Usage
from dflash_serve.server.deltas import EndDelta, TextDelta, TokenEntry
from dflash_serve.server.doors.completion_answer import CompletionShape, CompletionWriter
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, Script, asked, blocks, eventually, saying

URL = "/v1/completions"
TEXT = " brown fox é\U0001f600 jumps\u2028over END the lazy dog"
ASKED: dict[str, Any] = {"model": "fake/model", "prompt": "The quick", "max_tokens": 400}


def whole(http: httpx.Client, **fields: Any) -> Completion:
    answer = http.post(URL, json=ASKED | fields)
    assert answer.status_code == 200, answer.text
    return Completion.model_validate_json(answer.content, strict=True)


def streamed(http: httpx.Client, **fields: Any) -> list[Any]:
    """The chunks, of which only the last of a choice has a finish reason, as plain JSON."""
    body = http.post(URL, json=ASKED | {"stream": True} | fields).text
    *data, done = body.strip().split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in data]


def texts(chunks: list[Any], count: int) -> list[str]:
    found = [""] * count
    for chunk in chunks:
        for choice in chunk["choices"]:
            found[choice["index"]] += choice["text"]
    return found


def saying_of_prompt(tokenizer: ChatTokenizer) -> Any:
    """A script that answers with the prompt in capitals."""

    def script(request: EngineRequest) -> Script:
        text = tokenizer.decode(request.prompt).upper()
        return Script(blocks(tokenizer.backend.encode(text).ids))

    return script


def test_a_whole_answer(http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer) -> None:
    answer = whole(http)
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", "fake/model")
    [choice] = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, TEXT, "stop")
    assert choice.logprobs is None
    assert engine.requests[0].prompt == tokenizer.encode_raw("The quick")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(engine.requests[0].prompt)
    assert answer.usage.completion_tokens == len(tokenizer.backend.encode(TEXT).ids) + 1


def test_a_stream_says_the_same(http: httpx.Client, client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(**ASKED, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert len(chunks) > 2
    ends = [choice["finish_reason"] for chunk in streamed(http) for choice in chunk["choices"]]
    assert ends == [*[None] * (len(ends) - 1), "stop"]


def test_markup_is_ordinary_text(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    text = "<think>what?</think>Well."
    engine.script = saying(tokenizer, text)
    assert whole(http).choices[0].text == text
    assert texts(streamed(http), 1) == [text]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
def test_several_prompts(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer, stream: bool, tokens: bool
) -> None:
    engine.script = saying_of_prompt(tokenizer)
    said = ["hello", "again and", "world"]
    prompt: Any = [list(tokenizer.encode_raw(text)) for text in said] if tokens else said
    wanted = ["HELLO", "HELLO", "AGAIN AND", "AGAIN AND", "WORLD", "WORLD"]
    fields = {"prompt": prompt, "n": 2, "seed": 7}
    if stream:
        assert texts(streamed(http, **fields), 6) == wanted
    else:
        answer = whole(http, **fields)
        assert [choice.text for choice in answer.choices] == wanted
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3, 4, 5]
        prompts = sum(len(tokenizer.encode_raw(text)) for text in said)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == prompts
        assert answer.usage.total_tokens == prompts + answer.usage.completion_tokens
    assert [request.sampling.seed for request in engine.requests] == [7, 8, 9, 10, 11, 12]
    assert len({request.group for request in engine.requests}) == 1
    assert len({request.id for request in engine.requests}) == 6


def test_one_prompt_of_token_ids(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    ids = list(tokenizer.encode_raw("hello"))
    assert whole(http, prompt=ids, echo=True).choices[0].text == "hello" + TEXT
    assert engine.requests[0].prompt == tuple(ids)


@pytest.mark.parametrize("stream", [False, True])
def test_echo(http: httpx.Client, stream: bool) -> None:
    if stream:
        assert texts(streamed(http, echo=True), 1) == ["The quick" + TEXT]
    else:
        assert whole(http, echo=True).choices[0].text == "The quick" + TEXT


@pytest.mark.parametrize("stream", [False, True])
def test_echo_without_an_answer_scores_the_prompt(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer, stream: bool
) -> None:
    fields: dict[str, Any] = {"echo": True, "max_tokens": 0, "logprobs": 1}
    ids = tokenizer.encode_raw("The quick")
    if stream:
        chunks = streamed(http, **fields)
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        assert texts(chunks, 1) == ["The quick"]
        probs = next(choice["logprobs"] for choice in choices if choice["logprobs"])
        finish = choices[-1]["finish_reason"]
    else:
        answer = http.post(URL, json=ASKED | fields).json()
        [choice] = answer["choices"]
        assert choice["text"] == "The quick"
        assert answer["usage"]["completion_tokens"] == 0
        probs, finish = choice["logprobs"], choice["finish_reason"]
    assert finish == "length"
    assert probs["tokens"] == [tokenizer.decode([token]) for token in ids]
    assert probs["token_logprobs"] == [None, *(-token / 1000 for token in ids[1:])]
    assert probs["top_logprobs"][0] is None
    assert all(len(top) >= 1 for top in probs["top_logprobs"][1:])
    assert engine.requests[0].prompt_logprobs == 1


def test_logprobs_of_prompt_and_answer(http: httpx.Client, tokenizer: ChatTokenizer) -> None:
    ids = [*tokenizer.encode_raw("The quick"), *tokenizer.backend.encode(TEXT).ids]
    [choice] = http.post(URL, json=ASKED | {"echo": True, "logprobs": 2}).json()["choices"]
    probs = choice["logprobs"]
    # the stop token has a log-probability too, and no text
    assert probs["token_logprobs"][1 : len(ids)] == [-token / 1000 for token in ids[1:]]
    assert len(probs["tokens"]) == len(probs["text_offset"]) == len(probs["token_logprobs"])
    for token, offset in zip(probs["tokens"], probs["text_offset"], strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert choice["text"][offset : offset + len(token)] == token


def test_streamed_logprobs_join_to_the_whole(http: httpx.Client) -> None:
    fields: dict[str, Any] = {"logprobs": 2, "echo": True, "stop": "END"}
    [choice] = http.post(URL, json=ASKED | fields).json()["choices"]
    parts = [c["logprobs"] for chunk in streamed(http, **fields) for c in chunk["choices"]]
    for name, values in choice["logprobs"].items():
        assert [value for part in parts if part for value in part[name]] == values


def test_no_logprobs_of_others_at_zero(http: httpx.Client) -> None:
    [choice] = http.post(URL, json=ASKED | {"logprobs": 0}).json()["choices"]
    assert choice["logprobs"]["top_logprobs"] is None
    assert choice["logprobs"]["token_logprobs"]


def test_halves_of_characters_are_named_by_their_bytes() -> None:
    face = "\U0001f600".encode()
    entries = tuple(TokenEntry(at, "\ufffd", face[at : at + 2], -1.0) for at in (0, 2))
    shape = CompletionShape("c", 1, "m", "f", choices=1, n=1, top=0)
    writer = CompletionWriter(shape)
    writer.add(TextDelta(0, "\U0001f600!", logprobs=(*entries, TokenEntry(9, "!", b"!", -2.0))))
    writer.add(EndDelta(0, "stop", Usage()))
    probs = writer.whole().choices[0].logprobs
    assert probs is not None
    assert probs.tokens == ["bytes:\\xf0\\x9f", "bytes:\\x98\\x80", "!"]
    assert probs.text_offset == [0, 0, 1]


def test_the_chosen_token_is_among_the_likely_ones() -> None:
    likely = tuple(TokenEntry(at, text, text.encode(), -1.0) for at, text in enumerate("ab"))
    entries = (TokenEntry(2, "c", b"c", -3.0, likely), TokenEntry(0, "a", b"a", -1.0, likely))
    writer = CompletionWriter(CompletionShape("c", 1, "m", "f", choices=1, n=1, top=2))
    writer.add(TextDelta(0, "ca", logprobs=entries))
    writer.add(EndDelta(0, "stop", Usage()))
    probs = writer.whole().choices[0].logprobs
    assert probs is not None
    assert probs.top_logprobs == [{"a": -1.0, "b": -1.0, "c": -3.0}, {"a": -1.0, "b": -1.0}]


def test_usage_of_a_stream(http: httpx.Client) -> None:
    plain = streamed(http, prompt=["a", "b"])
    assert all("usage" not in chunk for chunk in plain)
    last = streamed(http, prompt=["a", "b"], stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in last[:-1]] == [None] * (len(last) - 1)
    assert last[-1]["choices"] == []
    assert last[-1]["usage"]["prompt_tokens"] == 2
    options = {"include_usage": True, "continuous_usage_stats": True}
    running = [chunk["usage"] for chunk in streamed(http, stream_options=options)]
    counts = [usage["completion_tokens"] for usage in running]
    assert counts == sorted(counts)
    assert counts[-1] == last[-1]["usage"]["completion_tokens"] / 2


def test_defaults_and_parameters_reach_the_engine(http: httpx.Client, engine: FakeEngine) -> None:
    assert http.post(URL, json={"model": "fake/model", "prompt": "x"}).status_code == 200
    assert engine.requests[0].max_tokens == 16
    whole(
        http,
        max_tokens=9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.1,
        logit_bias={"5": -100},
        min_tokens=3,
        stop_token_ids=[7],
        ignore_eos=True,
        regex="[a-z]+",
    )
    asked = engine.requests[1]
    rules = asked.rules
    assert (rules.presence, rules.frequency, rules.repetition) == (0.5, -0.5, 1.1)
    assert (rules.bias, rules.min_tokens) == (((5, -100.0),), 3)
    assert asked.stop_tokens == {7}
    assert asked.grammar is not None


def test_stop_strings(http: httpx.Client) -> None:
    before = TEXT.partition("END")[0]
    [choice] = whole(http, stop=["nowhere", "END"]).choices
    assert (choice.text, choice.finish_reason) == (before, "stop")
    [kept] = whole(http, stop="END", include_stop_str_in_output=True).choices
    assert kept.text == f"{before}END"


NEUTRAL: list[dict[str, Any]] = [
    {"suffix": None, "best_of": 1, "echo": False, "logprobs": None, "user": "u"},
    {"suffix": "", "n": 2, "best_of": 2, "logit_bias": {}, "stop": []},
    {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "top_p": 0},
    {"response_format": {"type": "text"}, "stream_options": None, "max_tokens": 5.0},
]


@pytest.mark.parametrize("fields", NEUTRAL)
def test_neutral_values_are_accepted(http: httpx.Client, fields: dict[str, Any]) -> None:
    whole(http, **fields)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "prompt", "Missing required parameter"),
    ({"prompt": []}, "prompt", "at least 1 item"),
    ({"prompt": ""}, "prompt", "The prompt is empty"),
    ({"prompt": ["a", ""]}, "prompt.1", "The prompt is empty"),
    ({"prompt": {"text": "x"}}, "prompt", "a string, a list of strings"),
    ({"prompt": [1, "a"]}, "prompt.1", "valid integer"),
    ({"prompt": [[1], []]}, "prompt.1", "at least 1 item"),
    ({"prompt": [511, 512]}, "prompt", "token ids must be 0 to 511, but one is 512"),
    ({"prompt": "x " * 600}, "prompt", "the model's context holds 512 tokens"),
    ({"prompt": ["a"] * 129}, "prompt", "at most 128 items"),
    ({"prompt": ["a"] * 65, "n": 2}, "n", "65 prompts with n = 2 are 130 choices"),
    ({"n": 129}, "n", "less than or equal to 128"),
    ({"best_of": 2}, "best_of", "best_of is 2 and n is 1"),
    ({"suffix": "end"}, "suffix", "not supported"),
    ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
    ({"max_tokens": 0}, "max_tokens", "needs echo"),
    ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
    ({"logit_bias": {"512": 1}}, "logit_bias", "0 to 511"),
    ({"min_tokens": 401}, "min_tokens", "max_tokens is 400"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
    ({"regex": "(", "choice": None}, "regex", "Invalid 'regex'"),
    ({"regex": "a", "choice": ["b"]}, "choice", "exclude each other"),
    ({"messages": []}, "messages", "Unrecognized"),
]


@pytest.mark.parametrize(("fields", "param", "text"), REFUSED)
def test_bad_requests_are_refused(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], param: str, text: str
) -> None:
    answer = http.post(URL, json=ASKED | fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert text in error["message"]
    eventually(lambda: not engine.live)


def test_one_refused_prompt_ends_the_others(http: httpx.Client, engine: FakeEngine) -> None:
    engine.script = lambda request: Script(hang=True)
    engine.refuse, engine.refuse_after = QueueFull("full", 3), 2
    answer = http.post(URL, json=ASKED | {"prompt": ["a", "b", "c"]})
    assert answer.status_code == 503
    eventually(lambda: len(engine.aborted) == 2 and not engine.live)


@pytest.mark.parametrize("prompt", ["hello", ["hello", "world"]])
def test_a_failing_engine_ends_the_stream_with_an_error(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer, prompt: Any
) -> None:
    engine.script = saying(tokenizer, TEXT, finish=FinishReason.ERROR, error="the device is lost")
    body = http.post(URL, json=ASKED | {"stream": True, "prompt": prompt}).text
    *_, last, done = body.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the device is lost"
    assert done == "data: [DONE]"
    assert http.post(URL, json=ASKED | {"prompt": prompt}).status_code == 500
    eventually(lambda: not engine.live)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["hello", ["hello", "world"]])
def test_a_client_that_leaves_ends_all_generations(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer, stream: bool, prompt: Any
) -> None:
    engine.script = saying(tokenizer, "hello", hang=True)
    body = ASKED | {"stream": stream, "prompt": prompt}
    count = 1 if isinstance(prompt, str) else 2
    if stream:
        with http.stream("POST", URL, json=body) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
    else:
        with asked(str(http.base_url), URL, body):
            eventually(lambda: engine.live == count)
    eventually(lambda: len(engine.aborted) == count and not engine.live)
