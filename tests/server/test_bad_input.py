"""Everything a client can get wrong: OpenAI's error object, the right status, nothing harmed."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, make_app, saying, serving

URL = "/v1/chat/completions"
GOOD: dict[str, Any] = {
    "model": "fake/model",
    "messages": [{"role": "user", "content": "hi"}],
}


@pytest.fixture(scope="module")
def engine(tokenizer: ChatTokenizer) -> FakeEngine:
    return FakeEngine(saying(tokenizer, "hello"))


@pytest.fixture(scope="module")
def client(engine: FakeEngine, tokenizer: ChatTokenizer) -> Iterator[httpx.Client]:
    app = make_app(engine, tokenizer, max_body_bytes=100_000)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error object, checked for its shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert "\n" not in body["error"]["message"]
    return dict(body["error"])


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"} | fields]}


def parts(*content: Any) -> dict[str, Any]:
    return message(content=list(content))


INVALID: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": 3}, "model", "invalid_value"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "hi"}, "messages", "invalid_value"),
    ({"messages": ["hi"]}, "messages.0", "invalid_value"),
    (message(role="wizard"), "messages.0.role", "invalid_value"),
    (message(role=None), "messages.0.role", "invalid_value"),
    (message(content=None), "messages.0.content", "invalid_value"),
    (message(content=5), "messages.0.content", "invalid_value"),
    (message(content=[]), "messages.0.content", "invalid_value"),
    (message(content={"a": 1}), "messages.0.content", "invalid_value"),
    (message(name=5), "messages.0.name", "invalid_value"),
    (message(mood="good"), "messages.0.mood", "unknown_parameter"),
    (parts({"type": "text", "text": 5}), "messages.0.content.0.text", "invalid_value"),
    (parts({"type": "text"}), "messages.0.content.0.text", "missing_required_parameter"),
    (
        parts({"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}),
        "messages.0.content.1.type",
        "unsupported_parameter",
    ),
    (parts({"type": "input_audio"}), "messages.0.content.0.type", "unsupported_parameter"),
    (
        message(role="assistant", tool_calls=[{"id": "1"}]),
        "messages.0.tool_calls",
        "unsupported_parameter",
    ),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"temperature": -0.1}, "temperature", "invalid_value"),
    ({"temperature": "1"}, "temperature", "invalid_value"),
    ({"temperature": True}, "temperature", "invalid_value"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"top_p": 1.5}, "top_p", "invalid_value"),
    ({"top_k": -2}, "top_k", "invalid_value"),
    ({"top_k": 1.0}, "top_k", "invalid_value"),
    ({"min_p": 1.1}, "min_p", "invalid_value"),
    ({"seed": 2**63}, "seed", "invalid_value"),
    ({"seed": "7"}, "seed", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": True}, "max_tokens", "invalid_value"),
    ({"max_tokens": 10**30}, "max_tokens", "invalid_value"),
    ({"max_tokens": 513}, "max_tokens", "invalid_value"),
    ({"max_completion_tokens": 513}, "max_completion_tokens", "invalid_value"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 17}, "n", "invalid_value"),
    ({"stop": 5}, "stop", "invalid_value"),
    ({"stop": ""}, "stop.0", "invalid_value"),
    ({"stop": ["a", 5]}, "stop.1", "invalid_value"),
    ({"stop": ["a"] * 17}, "stop", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", "invalid_value"),
    ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs", "template_error"),
    ({"foo": 1}, "foo", "unknown_parameter"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_value"),
]
UNSUPPORTED: dict[str, Any] = {
    "audio": {"voice": "x"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "logit_bias": {"5": 1},
    "logprobs": True,
    "modalities": ["text", "audio"],
    "prediction": {"type": "content"},
    "presence_penalty": False,
    "reasoning_effort": "low",
    "repetition_penalty": 1.1,
    "response_format": {"type": "json_object"},
    "service_tier": "flex",
    "store": True,
    "tool_choice": "auto",
    "tools": [{"type": "function"}],
    "top_logprobs": 2,
    "verbosity": "high",
    "web_search_options": {},
}
NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1,
    "function_call": "none",
    "functions": [],
    "logit_bias": {},
    "logprobs": False,
    "top_logprobs": 0,
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "service_tier": "auto",
    "store": False,
    "tool_choice": "none",
    "tools": [],
    "n": 1,
    "top_k": -1,
    "metadata": {"a": "b"},
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "parallel_tool_calls": True,
}


@pytest.mark.parametrize(("change", "param", "code"), INVALID, ids=lambda value: str(value)[:40])
def test_a_bad_field_is_a_400_that_names_it(
    client: httpx.Client, change: dict[str, Any], param: str, code: str
) -> None:
    error = error_of(client.post(URL, json=GOOD | change), 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert param.rsplit(".", 1)[-1] in error["message"] or param in error["message"]


def test_the_message_tells_value_and_limit(client: httpx.Client) -> None:
    error = error_of(client.post(URL, json=GOOD | {"temperature": 7}), 400)
    assert error["message"] == (
        "Invalid 'temperature': Input should be less than or equal to 2, but it is 7"
    )
    error = error_of(client.post(URL, json=GOOD | {"max_tokens": 9000}), 400)
    assert "9000" in error["message"]
    assert "512" in error["message"]


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(client: httpx.Client, name: str) -> None:
    error = error_of(client.post(URL, json=GOOD | {name: UNSUPPORTED[name]}), 400)
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert name in error["message"]


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_values_pass(client: httpx.Client, name: str) -> None:
    assert client.post(URL, json=GOOD | {name: NEUTRAL[name]}).status_code == 200


def test_null_is_absent(client: httpx.Client) -> None:
    optional = {*UNSUPPORTED, *NEUTRAL, "temperature", "stop", "seed", "stream", "stream_options"}
    nothing = dict.fromkeys(optional, None)
    assert client.post(URL, json=GOOD | nothing | message(name=None)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"hello",
        b"[1]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"model": "fake/model", "messages": [{"role": "user", "content": "\xff"}]}',
        rb'{"model": "fake/model", "messages": [{"role": "user", "content": "\ud800"}]}',
        rb'{"model": "fake/model", "messages": [{"role": "user", "content": "a\udc00b"}]}',
        b'{"temperature": NaN, "model": "fake/model", "messages": []}',
        b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=lambda body: str(body[:20]),
)
def test_a_body_that_is_no_request(client: httpx.Client, body: bytes) -> None:
    assert error_of(client.post(URL, content=body), 400)["type"] == "invalid_request_error"


def test_control_characters_in_text_are_text(client: httpx.Client) -> None:
    assert client.post(URL, json=GOOD | message(content="a\x00b\x1b[31m")).status_code == 200


def test_unknown_model(client: httpx.Client) -> None:
    error = error_of(client.post(URL, json=GOOD | {"model": "gpt-9" + "9" * 1000}), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "fake/model" in error["message"]
    assert len(error["message"]) < 300


def test_a_prompt_that_does_not_fit_is_refused_before_any_work(
    client: httpx.Client, engine: FakeEngine
) -> None:
    before = len(engine.requests)
    error = error_of(client.post(URL, json=GOOD | message(content="x" * 600)), 400)
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
    assert "512" in error["message"]
    assert len(engine.requests) == before


def test_the_templates_refusal_is_a_400(client: httpx.Client) -> None:
    late = [*GOOD["messages"], {"role": "system", "content": "late"}]
    error = error_of(client.post(URL, json=GOOD | {"messages": late}), 400)
    assert (error["param"], error["code"]) == ("messages", "template_error")
    assert "System message must be at the beginning" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("POST", "/v1/chat", 404, "unknown_url"),
        ("GET", "/v1/%ff%fe", 404, "unknown_url"),
        ("GET", "/v1/%0aforged%20line", 404, "unknown_url"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", URL, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
    ],
)
def test_unknown_routes_and_methods(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)
    assert error_of(answer, status)["code"] == code
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_50_megabytes(client: httpx.Client, chunked: bool) -> None:
    size, piece = 50_000_000, b"x" * 1_000_000
    content = (piece for _ in range(size // len(piece))) if chunked else b"x" * size
    error = error_of(client.post(URL, content=content), 413)
    assert "100000" in error["message"]


def test_the_server_is_unharmed(client: httpx.Client, engine: FakeEngine) -> None:
    assert client.post(URL, json=GOOD).json()["choices"][0]["message"]["content"] == "hello"
    assert client.get("/health").status_code == 200
    assert engine.live == 0
