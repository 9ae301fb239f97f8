"""Chat completions over a real socket, through OpenAI's own clients."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from dflash_serve.engine.errors import EngineUnavailable, QueueFull, RequestError
from dflash_serve.engine.types import EngineRequest, FinishReason
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, Script, saying
from tests.server import shapes
from tests.server.samples import TEXT

URL = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "hello"}]
GOOD: dict[str, Any] = {"model": "fake/model", "messages": HELLO}
CALL = {"id": "x", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}


def sdk(http: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)


def events(body: str) -> list[Any]:
    """The data of each server-sent event, decoded."""
    return [*shapes.chunks(body), "[DONE]"]


def text_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(
        choice.delta.content or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index
    )


def test_a_whole_answer(http: httpx.Client, tokenizer: ChatTokenizer) -> None:
    answer = shapes.completion(http.post(URL, json=GOOD).content)
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == "fake/model"
    assert answer.created > 1_700_000_000
    assert answer.system_fingerprint
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", TEXT)
    assert answer.usage is not None
    sent = len(tokenizer.backend.encode(TEXT).ids) + 1
    assert answer.usage.completion_tokens == sent
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + sent
    details = answer.usage.completion_tokens_details
    assert details is not None
    rounds = (sent - 1 + 3) // 4
    assert details.accepted_prediction_tokens == sent - 1 - rounds
    assert details.rejected_prediction_tokens == 7 * rounds - (sent - 1 - rounds)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert "meta_info" not in answer.model_dump()


def test_a_streamed_answer(http: httpx.Client) -> None:
    answer = http.post(URL, json=GOOD | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    assert text_of(chunks) == TEXT
    first, last = chunks[0].choices[0], chunks[-1].choices[0]
    assert (first.delta.role, first.delta.content, first.finish_reason) == ("assistant", "", None)
    assert (last.delta.content, last.finish_reason) == (None, "stop")
    assert [c.choices[0].delta.role for c in chunks[1:]] == [None] * (len(chunks) - 1)
    assert sum(c.choices[0].finish_reason is not None for c in chunks) == 1
    assert len({(c.id, c.created, c.model, c.object, c.system_fingerprint) for c in chunks}) == 1
    assert "usage" not in answer.text


def test_usage_in_a_stream_comes_last_and_alone(http: httpx.Client) -> None:
    body = GOOD | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, _ = events(http.post(URL, json=body).text)
    assert usage.choices == []
    whole = http.post(URL, json=GOOD).json()["usage"]
    assert usage.usage.model_dump(exclude_none=True) == whole
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)


def test_meta_info_tells_how_speculation_went(http: httpx.Client) -> None:
    whole = http.post(URL, json=GOOD | {"return_meta_info": True}).json()
    meta = whole["meta_info"]
    assert meta["spec_verify_ct"] == meta["drafted"] // 7 > 0
    completion = whole["usage"]["completion_tokens"]
    assert meta["spec_accept_length"] == pytest.approx((completion - 1) / meta["spec_verify_ct"])
    assert meta["completion_tokens"] == completion
    assert meta["ttft"] == pytest.approx(0.01)
    for options in ({}, {"stream_options": {"include_usage": True}}):
        streamed = GOOD | {"return_meta_info": True, "stream": True} | options
        *chunks, _ = events(http.post(URL, json=streamed).text)
        assert [chunk.model_extra.get("meta_info") for chunk in chunks[:-1]] == [None] * (
            len(chunks) - 1
        )
        assert chunks[-1].model_extra["meta_info"] == meta


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_generation_at_once(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer, stream: bool
) -> None:
    long = TEXT + " and on" * 50
    engine.script = saying(tokenizer, long)
    before = "The quick brown fox é\U0001f600 jumps\u2028over "
    with sdk(http) as client:
        if stream:
            chunks = list(
                client.chat.completions.create(
                    model="fake/model",
                    messages=HELLO,
                    stop=["END", "nowhere"],
                    stream=True,
                    stream_options={"include_usage": True},
                )
            )
            assert text_of(chunks) == before
            assert chunks[-2].choices[0].finish_reason == "stop"
            usage = chunks[-1].usage
        else:
            answer = client.chat.completions.create(
                model="fake/model", messages=HELLO, stop=["END", "nowhere"]
            )
            assert answer.choices[0].message.content == before
            assert answer.choices[0].finish_reason == "stop"
            usage = answer.usage
    ids = tokenizer.backend.encode(long).ids
    assert usage is not None
    assert "END" in tokenizer.backend.decode(ids[: usage.completion_tokens])
    assert "END" not in tokenizer.backend.decode(ids[: usage.completion_tokens - 1])
    assert usage.completion_tokens_details is not None
    assert (usage.completion_tokens_details.accepted_prediction_tokens or 0) >= 0
    assert engine.aborted == [engine.requests[0].id]
    assert engine.live == 0


def test_a_held_back_beginning_of_a_stop_string_is_given_out_at_the_end(
    http: httpx.Client,
) -> None:
    answer = http.post(URL, json=GOOD | {"stop": "dog!"}).json()
    assert answer["choices"][0]["message"]["content"] == TEXT


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_ends_with_length(http: httpx.Client, engine: FakeEngine, name: str) -> None:
    answer = http.post(URL, json=GOOD | {name: 5}).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    assert engine.requests[0].max_tokens == 5


def test_half_a_character_at_the_end_becomes_a_replacement(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    ids = tokenizer.backend.encode("\U0001f600").ids[:2]
    engine.script = lambda request: Script((tuple(ids),), FinishReason.LENGTH)
    for stream in (False, True):
        body = http.post(URL, json=GOOD | {"stream": stream}).text
        assert body.count("\ufffd") == 1


def test_choices_run_side_by_side_and_interleave(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    def script(request: EngineRequest) -> Script:
        return saying(tokenizer, f"choice {request.sampling.seed} " * 9, pause=0.001)(request)

    engine.script = script
    body = GOOD | {"n": 3, "seed": 2**63 - 2, "temperature": 1}
    whole = http.post(URL, json=body).json()
    seeds = [2**63 - 2, 2**63 - 1, -(2**63)]
    texts = [f"choice {seed} " * 9 for seed in seeds]
    assert [c["message"]["content"] for c in whole["choices"]] == texts
    assert [c["index"] for c in whole["choices"]] == [0, 1, 2]
    one = http.post(URL, json=body | {"n": 1}).json()["usage"]
    assert whole["usage"]["prompt_tokens"] == one["prompt_tokens"]
    assert whole["usage"]["completion_tokens"] > 2 * one["completion_tokens"]
    *chunks, _ = events(http.post(URL, json=body | {"stream": True}).text)
    assert [text_of(chunks, index) for index in range(3)] == texts
    order = [chunk.choices[0].index for chunk in chunks[3:] if chunk.choices[0].delta.content]
    assert order != sorted(order)
    ends = [c.choices[0].index for c in chunks if c.choices[0].finish_reason]
    assert sorted(ends) == [0, 1, 2]


def test_sampling_parameters_reach_the_engine(http: httpx.Client, engine: FakeEngine) -> None:
    given = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": -5}
    http.post(URL, json=GOOD | given)
    sampling = engine.requests[0].sampling
    assert {name: getattr(sampling, name) for name in given} == given


def test_roles_parts_and_template_arguments(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "tool_call_id": "x"},
    ]
    body = GOOD | {"messages": messages, "chat_template_kwargs": {"enable_thinking": False}}
    assert http.post(URL, json=body).status_code == 200
    prompt = tokenizer.backend.decode(list(engine.requests[0].prompt), skip_special_tokens=False)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nab<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>tool\n42<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_answers_can_be_sent_back_as_history(http: httpx.Client) -> None:
    with sdk(http) as client:
        answer = client.chat.completions.create(model="fake/model", messages=HELLO)
        said = answer.choices[0].message.model_dump()
        history = [*HELLO, said, *HELLO]
        again = client.chat.completions.create(model="fake/model", messages=history)
    assert again.choices[0].message.content == TEXT


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (RequestError("too big", "messages"), 400, "context_length_exceeded"),
        (QueueFull("128 requests wait already", 3), 503, "queue_full"),
        (EngineUnavailable("the engine is loading"), 503, "engine_unavailable"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_engines_refusals(
    http: httpx.Client,
    engine: FakeEngine,
    refusal: Any,
    status: int,
    code: str,
    stream: bool,
) -> None:
    engine.refuse = refusal
    answer = http.post(URL, json=GOOD | {"stream": stream})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"] == str(refusal)
    assert answer.headers.get("retry-after") == ("3" if code == "queue_full" else None)


def test_a_refused_choice_takes_the_others_with_it(http: httpx.Client, engine: FakeEngine) -> None:
    engine.refuse, engine.refuse_after = QueueFull("full", 1), 2
    assert http.post(URL, json=GOOD | {"n": 3}).status_code == 503
    assert len(engine.requests) == 2
    assert engine.live == 0


@pytest.mark.parametrize(
    ("finish", "status", "code", "said"),
    [
        (FinishReason.ERROR, 500, "engine_error", "out of memory"),
        (FinishReason.ABORTED, 503, "engine_unavailable", "The answer ends here: the server is "),
    ],
)
def test_a_failure_in_the_middle_reaches_the_client(
    http: httpx.Client,
    engine: FakeEngine,
    tokenizer: ChatTokenizer,
    finish: FinishReason,
    status: int,
    code: str,
    said: str,
) -> None:
    engine.script = saying(tokenizer, "some words", finish=finish, error="out of memory")
    answer = http.post(URL, json=GOOD)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    lines = http.post(URL, json=GOOD | {"stream": True}).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    error = json.loads(lines[-2].removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"].startswith(said)
    assert "some" in "".join(lines[:-2])
    with sdk(http) as client, pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="fake/model", messages=HELLO, stream=True))
    assert engine.live == 0


def test_a_bug_is_a_500_and_the_server_goes_on(http: httpx.Client, engine: FakeEngine) -> None:
    script = engine.script

    def broken(request: EngineRequest) -> Script:
        raise ZeroDivisionError

    engine.script = broken
    for stream in (False, True):
        answer = http.post(URL, json=GOOD | {"stream": stream})
        assert "error" in answer.text
        assert "ZeroDivision" not in answer.text
    engine.script = script
    assert http.post(URL, json=GOOD).status_code == 200


def test_the_async_client_with_many_requests_at_once(http: httpx.Client) -> None:
    async def one(client: openai.AsyncOpenAI, stream: bool) -> str:
        if not stream:
            answer = await client.chat.completions.create(model="fake/model", messages=HELLO)
            return answer.choices[0].message.content or ""
        chunks = await client.chat.completions.create(
            model="fake/model", messages=HELLO, stream=True
        )
        return text_of([chunk async for chunk in chunks])

    async def burst() -> list[str]:
        url = f"{http.base_url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, i % 2 == 0) for i in range(64)))

    assert asyncio.run(burst()) == [TEXT] * 64
