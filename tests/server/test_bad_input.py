"""Everything a client can get wrong: OpenAI's error object, the right status, nothing harmed."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dflash_serve.server.protocol.chat import ChatRequest
from dflash_serve.server.protocol.chat_messages import Message
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, make_app, saying, serving

URL = "/v1/chat/completions"
GOOD: dict[str, Any] = {
    "model": "fake/model",
    "messages": [{"role": "user", "content": "hi"}],
}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def engine(tokenizer: ChatTokenizer) -> FakeEngine:
    return FakeEngine(saying(tokenizer, "hello"))


@pytest.fixture(scope="module")
def client(engine: FakeEngine, tokenizer: ChatTokenizer) -> Iterator[httpx.Client]:
    app = make_app(engine, tokenizer, max_body_bytes=1_000_000)
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


def history(**fields: Any) -> dict[str, Any]:
    """A chat whose second message makes a tool call; ``fields`` change its function."""
    function = {"name": "look", "arguments": "{}"} | fields
    call = {"id": "1", "type": "function", "function": function}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"messages": [*GOOD["messages"], said]}


def answered(**fields: Any) -> dict[str, Any]:
    result = {"role": "tool", "content": "42"} | fields
    return {"messages": [*history()["messages"], result]}


def tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "look"} | fields}]}


def schema(value: Any, **fields: Any) -> dict[str, Any]:
    form = {"schema": value} | fields
    return {"response_format": {"type": "json_schema", "json_schema": form}}


NAMED = {"type": "function", "function": {"name": "other"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}
SCHEMA_AT = "response_format.json_schema.schema"
CALL_AT = "messages.1.tool_calls.0"

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
        message(tool_calls=history()["messages"][1]["tool_calls"]),
        "messages.0.tool_calls",
        "invalid_value",
    ),
    (
        message(role="assistant", tool_calls=[{"id": "1"}]),
        "messages.0.tool_calls.0.function",
        "missing_required_parameter",
    ),
    (history(arguments="{"), f"{CALL_AT}.function.arguments", "invalid_value"),
    (history(arguments="[1]"), f"{CALL_AT}.function.arguments", "invalid_value"),
    (history(arguments="[" * 100_000), f"{CALL_AT}.function.arguments", "invalid_value"),
    (history(arguments={}), f"{CALL_AT}.function.arguments", "invalid_value"),
    (history(name=""), f"{CALL_AT}.function.name", "invalid_value"),
    (answered(tool_call_id=None), "messages.2.tool_call_id", "missing_required_parameter"),
    (answered(tool_call_id="2"), "messages.2.tool_call_id", "invalid_value"),
    (message(role="tool", tool_call_id="1"), "messages.0.tool_call_id", "invalid_value"),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"temperature": -0.1}, "temperature", "invalid_value"),
    ({"temperature": "1"}, "temperature", "invalid_value"),
    ({"temperature": True}, "temperature", "invalid_value"),
    ({"top_p": -0.1}, "top_p", "invalid_value"),
    ({"top_p": 1.5}, "top_p", "invalid_value"),
    ({"top_k": -2}, "top_k", "invalid_value"),
    ({"top_k": 1.5}, "top_k", "invalid_value"),
    ({"min_p": 1.1}, "min_p", "invalid_value"),
    ({"presence_penalty": 2.1}, "presence_penalty", "invalid_value"),
    ({"presence_penalty": False}, "presence_penalty", "invalid_value"),
    ({"frequency_penalty": -2.1}, "frequency_penalty", "invalid_value"),
    ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    ({"repetition_penalty": 2.1}, "repetition_penalty", "invalid_value"),
    ({"logit_bias": {"512": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"9" * 30: 1}}, "logit_bias." + "9" * 30, "invalid_value"),
    ({"logit_bias": {"hello": 1}}, "logit_bias.hello", "invalid_value"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
    ({"logit_bias": {"5": -101}}, "logit_bias.5", "invalid_value"),
    ({"logit_bias": [5]}, "logit_bias", "invalid_value"),
    ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias", "invalid_value"),
    ({"logprobs": 3}, "logprobs", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "invalid_value"),
    ({"seed": 2**63}, "seed", "invalid_value"),
    ({"seed": "7"}, "seed", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": True}, "max_tokens", "invalid_value"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "invalid_value"),
    ({"max_tokens": 3, "min_tokens": 4}, "min_tokens", "invalid_value"),
    ({"min_tokens": -1}, "min_tokens", "invalid_value"),
    ({"stop_token_ids": [512]}, "stop_token_ids", "invalid_value"),
    ({"stop_token_ids": [-1]}, "stop_token_ids.0", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 129}, "n", "invalid_value"),
    ({"stop": 5}, "stop", "invalid_value"),
    ({"stop": ""}, "stop.0", "invalid_value"),
    ({"stop": ["a", 5]}, "stop.1", "invalid_value"),
    ({"stop": ["a"] * 17}, "stop", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", "invalid_value"),
    ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs", "template_error"),
    ({"tools": {}}, "tools", "invalid_value"),
    ({"tools": ["look"]}, "tools.0", "invalid_value"),
    ({"tools": [{"type": "function"}]}, "tools.0.function", "missing_required_parameter"),
    ({"tools": [{"type": "retrieval"}]}, "tools.0.type", "invalid_value"),
    (tool(name=None), "tools.0.function.name", "missing_required_parameter"),
    (tool(name="two words"), "tools.0.function.name", "invalid_value"),
    (tool(name="x" * 129), "tools.0.function.name", "invalid_value"),
    (tool(parameters=[]), "tools.0.function.parameters", "invalid_value"),
    (tool(parameters={"type": "array"}), "tools.0.function.parameters", "invalid_value"),
    ({"tools": tool()["tools"] * 2}, "tools.1.function.name", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tool_choice": "maybe"}, "tool_choice", "invalid_value"),
    ({"tool_choice": 5}, "tool_choice", "invalid_value"),
    ({"tool_choice": NAMED}, "tool_choice.function.name", "invalid_value"),
    (tool() | {"tool_choice": NAMED}, "tool_choice.function.name", "invalid_value"),
    (
        tool() | {"tool_choice": ALLOWED},
        "tool_choice.allowed_tools.tools.0.function.name",
        "invalid_value",
    ),
    (tool() | {"tool_choice": "required", "regex": "a"}, "regex", "invalid_value"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    (schema({"type": "nonsense"}), SCHEMA_AT, "invalid_value"),
    (schema({"$ref": "#/nowhere"}), SCHEMA_AT, "invalid_value"),
    (schema({"allOf": 5}), SCHEMA_AT, "invalid_value"),
    (schema(5), SCHEMA_AT, "invalid_value"),
    (schema({"type": "array", "uniqueItems": True}, strict=True), SCHEMA_AT, "invalid_value"),
    ({"regex": "("}, "regex", "invalid_value"),
    ({"regex": ""}, "regex", "invalid_value"),
    ({"grammar": "no grammar"}, "grammar", "invalid_value"),
    ({"choice": []}, "choice", "invalid_value"),
    ({"regex": "a", "choice": ["a"]}, "choice", "invalid_value"),
    (schema({}) | {"regex": "a"}, SCHEMA_AT, "invalid_value"),
    (tool(parameters={"type": "object", "properties": 5}, strict=True), "tools", "invalid_value"),
    ({"reasoning_effort": "enormous"}, "reasoning_effort", "invalid_value"),
    ({"thinking_budget": -1}, "thinking_budget", "invalid_value"),
    ({"thinking_budget": 1, "thinking_token_budget": 2}, "thinking_budget", "invalid_value"),
    ({"prediction": {"type": "x"}}, "prediction.type", "invalid_value"),
    ({"verbosity": "epic"}, "verbosity", "invalid_value"),
    ({"foo": 1}, "foo", "unknown_parameter"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_value"),
]
UNSUPPORTED: dict[str, Any] = {
    "audio": {"voice": "x"},
    "continue_final_message": True,
    "echo": True,
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "skip_special_tokens": False,
    "web_search_options": {},
}
NEUTRAL: dict[str, Any] = {
    "continue_final_message": False,
    "echo": False,
    "enable_thinking": True,
    "frequency_penalty": 0,
    "function_call": "none",
    "functions": [],
    "ignore_eos": False,
    "include_stop_str_in_output": False,
    "logit_bias": {},
    "logprobs": False,
    "max_tokens": 10**30,
    "metadata": {"a": "b"},
    "min_tokens": 0,
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": [{"type": "text", "text": "hello"}]},
    "presence_penalty": 0.0,
    "prompt_cache_key": "k",
    "reasoning_effort": "none",
    "repetition_penalty": 1,
    "response_format": {"type": "text"},
    "safety_identifier": "s",
    "service_tier": "flex",
    "skip_special_tokens": True,
    "stop": [],
    "stop_token_ids": [],
    "store": True,
    "temperature": 0,
    "tool_choice": "auto",
    "tools": [],
    "top_k": -1,
    "top_logprobs": 0,
    "top_p": 0,
    "user": "u",
    "verbosity": "high",
}


@pytest.mark.parametrize(("change", "param", "code"), INVALID, ids=lambda value: str(value)[:40])
def test_a_bad_field_is_a_400_that_names_it(
    client: httpx.Client, change: dict[str, Any], param: str, code: str
) -> None:
    error = error_of(client.post(URL, json=GOOD | change), 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert param.rsplit(".", 1)[-1] in error["message"] or param in error["message"]
    assert len(error["message"]) < 500


def test_the_message_tells_value_and_limit(client: httpx.Client) -> None:
    error = error_of(client.post(URL, json=GOOD | {"temperature": 7}), 400)
    assert error["message"] == (
        "Invalid 'temperature': Input should be less than or equal to 2, but it is 7"
    )


def test_the_message_tells_what_to_do_about_an_unknown_field(client: httpx.Client) -> None:
    """Chat UIs pass on what their users set, other servers' options among it."""
    error = error_of(client.post(URL, json=GOOD | {"num_ctx": 4096}), 400)
    assert error["message"] == (
        "Unrecognized request argument supplied: num_ctx. This server does not know it. "
        "Remove it from the request."
    )


TEXT_ONLY = "This model reads text only, not {}. Remove `messages.0.content.0` from the chat."
SENTENCES: list[tuple[dict[str, Any], str, str]] = [
    (
        parts({"type": "image_url", "image_url": {"url": "x"}}),
        "messages.0.content.0.type",
        TEXT_ONLY.format("images"),
    ),
    (parts({"type": "input_audio"}), "messages.0.content.0.type", TEXT_ONLY.format("audio")),
    (parts({"type": "file"}), "messages.0.content.0.type", TEXT_ONLY.format("files")),
    (
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        "tools.0.type",
        "Custom tools are not supported, only functions. Remove `tools.0`.",
    ),
    (
        {"audio": {"voice": "x"}},
        "audio",
        "Audio output is not supported by this server. Remove `audio` from the request.",
    ),
    (
        message(role="function"),
        "messages.0.role",
        'The old role "function" is not supported. Send results of tool calls in messages of '
        'role "tool".',
    ),
]


@pytest.mark.parametrize(("change", "param", "sentence"), SENTENCES, ids=lambda v: str(v)[:30])
def test_what_is_missing_is_said_in_a_sentence(
    client: httpx.Client, change: dict[str, Any], param: str, sentence: str
) -> None:
    error = error_of(client.post(URL, json=GOOD | change), 400)
    assert (error["param"], error["code"]) == (param, "unsupported_parameter")
    assert error["message"] == sentence


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(client: httpx.Client, name: str) -> None:
    error = error_of(client.post(URL, json=GOOD | {name: UNSUPPORTED[name]}), 400)
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert name in error["message"]


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_values_pass(client: httpx.Client, name: str) -> None:
    assert client.post(URL, json=GOOD | {name: NEUTRAL[name]}).status_code == 200


def test_null_is_absent(client: httpx.Client) -> None:
    optional = set(ChatRequest.model_fields) - {"model", "messages"}
    nothing = dict.fromkeys(optional, None)
    bare = dict.fromkeys(set(Message.model_fields) - {"role", "content"}, None)
    assert client.post(URL, json=GOOD | nothing | message(**bare)).status_code == 200


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
    answer = client.post(URL, content=body, headers=JSON)
    assert error_of(answer, 400)["type"] == "invalid_request_error"


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
    prompt = client.post(URL, json=GOOD | message(content="x" * 100)).json()["usage"]
    assert str(prompt["prompt_tokens"] + 500) in error["message"]
    assert len(engine.requests) == before + 1


def test_a_grammar_of_a_megabyte_is_refused_with_its_limit(client: httpx.Client) -> None:
    long = "a" * 600_000
    for field, value, limit in (("grammar", f'start: "{long}"', 65536), ("regex", long, 524288)):
        error = error_of(client.post(URL, json=GOOD | {field: value}), 400)
        assert (error["param"], error["code"]) == (field, "invalid_value")
        assert f"limit is {limit}" in error["message"]


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
    error = error_of(client.post(URL, content=content, headers=JSON), 413)
    assert "1000000" in error["message"]


def test_the_server_is_unharmed(client: httpx.Client, engine: FakeEngine) -> None:
    assert client.post(URL, json=GOOD).json()["choices"][0]["message"]["content"] == "hello"
    assert client.get("/health").status_code == 200
    assert engine.live == 0
