"""The other doors of a real server: speculation and streaming change nothing in any of them."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.server import MODEL, ServerProcess, all_slots_free, wait

PROMPTS = ["hello", "The quick brown fox", "zażółć 日本 🙂"]
SCORED = "The quick brown fox jumps over the lazy dog"


def completed(url: str, prompt: str, stream: bool) -> str:
    fields: Any = {"model": MODEL, "prompt": prompt, "max_tokens": 24, "temperature": 0}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        if not stream:
            return str(client.completions.create(**fields).choices[0].text)
        chunks = client.completions.create(**fields, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)


def responded(url: str, prompt: str, stream: bool) -> str:
    fields: Any = {"model": MODEL, "input": prompt, "max_output_tokens": 24, "temperature": 0}
    fields["reasoning"] = {"effort": "none"}  # what /v1/messages takes for granted
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        if not stream:
            return client.responses.create(**fields).output_text
        with client.responses.stream(**fields) as events:
            kind = "response.output_text.delta"
            return "".join(event.delta for event in events if event.type == kind)


def messaged(url: str, prompt: str, stream: bool) -> str:
    fields: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 24,
        "extra_body": {"temperature": 0},
    }
    with anthropic.Anthropic(base_url=url, api_key="-", max_retries=0) as client:
        if not stream:
            [block] = client.messages.create(**fields).content
            return str(block.text)
        with client.messages.stream(**fields) as events:
            return "".join(events.text_stream)


DOORS: list[Callable[[str, str, bool], str]] = [completed, responded, messaged]


def test_every_door_says_what_plain_decoding_says(url: str, plain_url: str) -> None:
    """All doors at once, streaming and not, against one request at a time."""
    asked = [(door, prompt) for door in DOORS for prompt in PROMPTS]
    want = [door(plain_url, prompt, False) for door, prompt in asked]
    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(door, url, prompt, False) for door, prompt in asked]
        streams = [pool.submit(door, url, prompt, True) for door, prompt in asked]
    assert [answer.result() for answer in answers] == want
    assert [stream.result() for stream in streams] == want
    # the same chat by two doors is the same prompt
    assert want[len(PROMPTS) : 2 * len(PROMPTS)] == want[2 * len(PROMPTS) :]


def _scores(url: str, prompt: Any, **fields: Any) -> Any:
    body = {"model": MODEL, "prompt": prompt, "temperature": 0, "logprobs": 2} | fields
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_a_prompt_is_scored_as_it_would_be_generated(url: str, plain_url: str) -> None:
    """What evaluation harnesses rely on: an answer's log-probabilities are those of the same
    tokens at the end of a prompt."""
    tokens = httpx.post(f"{url}/tokenize", json={"prompt": SCORED}).json()["tokens"]
    word = httpx.post(f"{url}/tokenize", json={"prompt": "hello"}).json()["tokens"][0]
    forced = {"logit_bias": {str(word): 100}, "max_tokens": 9, "echo": True}
    said = _scores(url, tokens, **forced)
    assert said["text"] == SCORED + "hello" * 9
    want = said["logprobs"]["token_logprobs"]
    assert want[0] is None
    assert len({round(value, 3) for value in want[1:]}) > 9
    for side in (url, plain_url):
        found = _scores(side, [*tokens, *[word] * 9], max_tokens=0, echo=True)["logprobs"]
        assert found["tokens"] == said["logprobs"]["tokens"]
        pairs = zip(found["token_logprobs"][1:], want[1:], strict=True)
        assert all(math.isclose(one, other, abs_tol=1e-3) for one, other in pairs)


def test_a_response_is_continued(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        fields: Any = {"model": MODEL, "max_output_tokens": 8, "temperature": 0}
        first = client.responses.create(**fields, input="hello")
        kept = client.responses.create(**fields, input="and?", previous_response_id=first.id)
        turns: Any = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "and?"},
        ]
        sent = client.responses.create(**fields, input=turns)
    assert kept.output_text == sent.output_text
    assert kept.usage is not None
    assert sent.usage is not None
    assert kept.usage.input_tokens == sent.usage.input_tokens


STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": ["hello", "world"], "max_tokens": 400}),
    ("/v1/responses", {"input": "hello"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 400}),
]


@pytest.mark.parametrize(("path", "fields"), STREAMS)
def test_slots_are_free_after_a_client_left(
    server: ServerProcess, url: str, path: str, fields: dict[str, Any]
) -> None:
    body = fields | {"model": MODEL, "stream": True}
    for _ in range(3):
        with httpx.stream("POST", f"{url}{path}", json=body, timeout=60) as answer:
            assert answer.status_code == 200
            next(answer.iter_lines())
    wait(lambda: all_slots_free(url), 60)
    assert "Traceback" not in server.log
