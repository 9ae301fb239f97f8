"""OpenAI's own client against real servers: speculation changes nothing but the speed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.e2e.server import MODEL

PROMPTS = ["hello", "The quick brown fox", "again and again " * 9, "zażółć 日本 🙂", "x"]
GREEDY: dict[str, Any] = {"temperature": 0.0}
SEEDED: dict[str, Any] = {"temperature": 1.3, "top_p": 0.95, "seed": 7}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", timeout=120, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def plain(plain_url: str) -> Iterator[openai.OpenAI]:
    options: dict[str, Any] = {"api_key": "-", "timeout": 120, "max_retries": 0}
    with openai.OpenAI(base_url=f"{plain_url}/v1", **options) as client:
        yield client


def create(client: openai.OpenAI, prompt: str, **options: Any) -> ChatCompletion:
    messages = [{"role": "user", "content": prompt}]
    defaults = {"model": MODEL, "messages": messages, "max_tokens": 24}
    answer: ChatCompletion = client.chat.completions.create(**(defaults | options))
    return answer


def whole(client: openai.OpenAI, prompt: str, **options: Any) -> tuple[str, str]:
    choice = create(client, prompt, **options).choices[0]
    return choice.message.content or "", choice.finish_reason


def streamed(client: openai.OpenAI, prompt: str, **options: Any) -> tuple[str, str]:
    """Text and finish reason, joined from the chunks."""
    texts, reasons = [], []
    for chunk in create(client, prompt, stream=True, **options):
        for choice in chunk.choices:
            texts.append(choice.delta.content or "")
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert len(reasons) == 1
    return "".join(texts), reasons[0]


def test_speculation_and_streaming_change_no_character(
    client: openai.OpenAI, plain: openai.OpenAI
) -> None:
    """From eight clients at once, greedy and with a seed, against plain decoding in turn."""
    asked = [(prompt, options) for prompt in PROMPTS for options in (GREEDY, SEEDED)]
    want = [whole(plain, prompt, **options) for prompt, options in asked]
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(whole, client, prompt, **options) for prompt, options in asked]
        streams = [pool.submit(streamed, client, prompt, **options) for prompt, options in asked]
        plain_streams = [pool.submit(streamed, plain, prompt, **opts) for prompt, opts in asked]
    assert [answer.result() for answer in answers] == want
    assert [stream.result() for stream in streams] == want
    assert [stream.result() for stream in plain_streams] == want
    assert len({text for text, _ in want}) == len(asked)


def test_choice_i_is_the_answer_to_seed_plus_i(client: openai.OpenAI) -> None:
    together = create(client, "hello", n=3, **SEEDED)
    alone = [create(client, "hello", **SEEDED | {"seed": 7 + i}) for i in range(3)]
    texts = [choice.message.content for choice in together.choices]
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    assert texts == [answer.choices[0].message.content for answer in alone]
    assert len(set(texts)) == 3
    assert together.usage is not None
    spent = [answer.usage.completion_tokens for answer in alone if answer.usage]
    assert together.usage.completion_tokens == sum(spent)


@pytest.mark.parametrize("read", [whole, streamed])
def test_text_ends_before_a_stop_string(
    client: openai.OpenAI, plain: openai.OpenAI, read: Any
) -> None:
    text, _ = whole(client, "hello", max_tokens=40, **GREEDY)
    at = next(i for i in range(len(text) // 2, len(text) - 3) if text[i : i + 3].isascii())
    stop = text[at : at + 3]
    want = text[: text.index(stop)], "stop"
    for options in ({"stop": stop}, {"stop": ["\n\nnever\n\n", stop]}):
        for side in (client, plain):
            assert read(side, "hello", max_tokens=40, **GREEDY, **options) == want


def test_usage_adds_up(client: openai.OpenAI, plain: openai.OpenAI) -> None:
    usage = create(client, "hello", **GREEDY).usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert 0 < usage.completion_tokens <= 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    details = usage.completion_tokens_details
    assert details.accepted_prediction_tokens
    assert details.rejected_prediction_tokens
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(create(client, "hello", **GREEDY, **options))
    assert chunks[-1].choices == []  # type: ignore[attr-defined]
    assert chunks[-1].usage == usage  # type: ignore[attr-defined]
    without = create(plain, "hello", **GREEDY).usage
    assert without is not None
    assert without.completion_tokens_details is not None
    assert without.completion_tokens == usage.completion_tokens
    assert without.completion_tokens_details.rejected_prediction_tokens == 0


def test_meta_info_tells_of_the_rounds(client: openai.OpenAI, plain: openai.OpenAI) -> None:
    for side, drafts in ((client, True), (plain, False)):
        answer = create(side, "hello", extra_body={"return_meta_info": True}, **GREEDY)
        assert answer.usage is not None
        meta: dict[str, Any] = answer.meta_info  # type: ignore[attr-defined]
        tokens = answer.usage.completion_tokens
        assert meta["completion_tokens"] == tokens
        assert (meta["drafted"] > meta["accepted"] > 0) is drafts
        assert meta["spec_accept_length"] == pytest.approx((tokens - 1) / meta["spec_verify_ct"])
