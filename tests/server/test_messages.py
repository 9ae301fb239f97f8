"""Anthropic's messages over a real socket, through its own client."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from pydantic import TypeAdapter

from dflash_serve.engine.errors import EngineUnavailable, QueueFull, RequestError
from dflash_serve.engine.types import EngineRequest, FinishReason, SamplingParams
from dflash_serve.server.ask import ChatPrompt
from dflash_serve.server.doors.message_ask import message_ask
from dflash_serve.server.protocol.messages import MessagesRequest
from dflash_serve.text.parsers import table
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, Script, asked, eventually, make_app, saying, serving
from tests.server.conftest import Served
from tests.server.samples import CALLS, TEXT, Place, named_events

MARKUP = table.compose("hermes", "think")
LOOK: dict[str, Any] = {
    "name": "look",
    "input_schema": {"type": "object", "properties": {"at": {}}, "required": ["at"]},
}
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
ASKED: dict[str, Any] = {"model": "fake/model", "max_tokens": 400, "messages": HELLO}
THINKING: dict[str, Any] = {"type": "enabled", "budget_tokens": 1024}
FORMAT: dict[str, Any] = {"type": "json_schema", "schema": {"type": "object"}}
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


@pytest.fixture
def client(served: Served, engine: FakeEngine) -> Iterator[anthropic.Anthropic]:
    with _client(served.url) as client:
        yield client


def _client(url: str, key: str = "-") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=60)


def events(body: str) -> list[Any]:
    """The events of a stream, each held against the package's own type."""
    return named_events(body, EVENT)


def answered(client: anthropic.Anthropic, stream: bool, **fields: Any) -> Message:
    if not stream:
        return client.messages.create(**ASKED | fields)
    with client.messages.stream(**ASKED | fields) as running:
        return running.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
def test_a_message(client: anthropic.Anthropic, engine: FakeEngine, stream: bool) -> None:
    message = answered(client, stream)
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", "fake/model")
    [block] = message.content
    assert (block.type, block.text) == ("text", TEXT)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.input_tokens == len(engine.requests[0].prompt)
    assert message.usage.output_tokens > 10


def test_text_streams_as_it_comes(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ASKED) as stream:
        pieces = list(stream.text_stream)
    assert "".join(pieces) == TEXT
    assert len(pieces) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_tool_use(
    client: anthropic.Anthropic, engine: FakeEngine, tokenizer: ChatTokenizer, stream: bool
) -> None:
    engine.script = saying(tokenizer, CALLS)
    message = answered(client, stream, tools=[LOOK], thinking=THINKING)
    assert message.stop_reason == "tool_use"
    thought, text, first, second = message.content
    assert (thought.type, thought.thinking) == ("thinking", "which one?")
    assert thought.signature
    assert (text.type, text.text) == ("text", "Let me see.")
    assert (first.type, first.name, first.input) == ("tool_use", "look", {"at": "x"})
    assert (second.type, second.name, second.input) == ("tool_use", "look", {"at": [1, 2]})
    assert first.id != second.id


def test_the_order_of_events(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, CALLS)
    fields = {"stream": True, "tools": [LOOK], "thinking": THINKING}
    found = events(http.post("/v1/messages", json=ASKED | fields).text)
    kinds = [event.type for event in found]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    block: list[str] = []
    seen = []
    for event in found[1:-2]:
        if event.type == "content_block_delta":
            assert event.index == len(seen)
            block.append(event.delta.type)
        elif event.type == "content_block_stop":
            assert event.index == len(seen)
            seen.append(list(dict.fromkeys(block)))
        else:
            assert (event.type, event.index) == ("content_block_start", len(seen))
            block = []
    tool = ["input_json_delta"]
    assert seen == [["thinking_delta", "signature_delta"], ["text_delta"], tool, tool]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("thinking", "kinds"),
    [
        (None, ["text", "tool_use", "tool_use"]),
        ({"type": "disabled"}, ["text", "tool_use", "tool_use"]),
        ({"type": "adaptive"}, ["thinking", "text", "tool_use", "tool_use"]),
        (
            {"type": "adaptive", "display": "omitted"},
            ["thinking", "text", "tool_use", "tool_use"],
        ),
    ],
)
def test_thinking_is_shown_to_those_who_ask(
    client: anthropic.Anthropic,
    engine: FakeEngine,
    tokenizer: ChatTokenizer,
    thinking: Any,
    kinds: list[str],
    stream: bool,
) -> None:
    engine.script = saying(tokenizer, CALLS)
    fields = {} if thinking is None else {"thinking": thinking}
    content = answered(client, stream, tools=[LOOK], **fields).content
    assert [block.type for block in content] == kinds
    if content[0].type == "thinking":
        omitted = thinking.get("display") == "omitted"
        assert content[0].thinking == ("" if omitted else "which one?")


def test_a_thinking_budget_reaches_the_engine(
    client: anthropic.Anthropic, engine: FakeEngine
) -> None:
    answered(client, False, thinking=THINKING)
    rule = engine.requests[0].thinking
    assert rule is not None
    assert rule.budget == 1024


@pytest.mark.parametrize("stream", [False, True])
def test_stop_sequence_and_token_limit(client: anthropic.Anthropic, stream: bool) -> None:
    stopped = answered(client, stream, stop_sequences=["nowhere", "END"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "END")
    assert stopped.content[0].text == TEXT.partition("END")[0]
    cut = answered(client, stream, max_tokens=3)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)


@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_answer_has_an_empty_text(
    client: anthropic.Anthropic, engine: FakeEngine, stream: bool
) -> None:
    engine.script = lambda request: Script()
    [block] = answered(client, stream).content
    assert (block.type, block.text) == ("text", "")


def test_a_call_that_the_limit_cuts_off_is_no_error(
    client: anthropic.Anthropic, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, CALLS)
    cut = len(tokenizer.backend.encode(CALLS).ids) - 20
    message = answered(client, False, tools=[LOOK], max_tokens=cut)
    assert message.stop_reason == "max_tokens"
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in message.content[1:]] == [{"at": "x"}, {}]


def test_counted_tokens_are_those_used(client: anthropic.Anthropic) -> None:
    fields: dict[str, Any] = {"model": "fake/model", "messages": HELLO, "system": "Be brief."}
    counted = client.messages.count_tokens(**fields, tools=[LOOK])
    used = client.messages.create(**fields, tools=[LOOK], max_tokens=9).usage
    assert counted.input_tokens == used.input_tokens
    assert (
        counted.input_tokens
        > client.messages.count_tokens(model="fake/model", messages=HELLO).input_tokens
    )


def test_parameters_reach_the_engine(http: httpx.Client, engine: FakeEngine) -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 7}
    assert http.post("/v1/messages", json=ASKED | fields).status_code == 200
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [LOOK], "tool_choice": {"type": "any"}},
        {"tools": [LOOK], "tool_choice": {"type": "tool", "name": "look"}},
        {"output_config": {"format": FORMAT}},
        {"output_format": FORMAT},
    ],
)
def test_what_must_have_a_shape_has_a_grammar(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    assert http.post("/v1/messages", json=ASKED | fields).status_code == 200
    assert engine.requests[0].grammar is not None


def test_the_parsing_helper(
    client: anthropic.Anthropic, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, '{"name": "Oz", "far": 9}')
    parsed = client.messages.parse(**ASKED, output_format=Place)
    assert parsed.parsed_output == Place(name="Oz", far=9)
    with client.messages.stream(**ASKED, output_format=Place) as stream:
        assert stream.get_final_message().parsed_output == Place(name="Oz", far=9)
    assert all(request.grammar is not None for request in engine.requests)


def test_a_loop_of_tools(
    client: anthropic.Anthropic, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    """The package runs the tools and sends everything back, once it knows of no threads here."""
    seen = []

    @anthropic.beta_tool
    def look(at: str) -> str:
        """Look at something.

        Args:
            at: what to look at
        """
        seen.append(at)
        return "a wall"

    call = '<tool_call>{"name": "look", "arguments": {"at": "x"}}</tool_call>'

    def script(request: EngineRequest) -> Script:
        answer = TEXT if "a wall" in tokenizer.decode(request.prompt) else call
        return saying(tokenizer, answer)(request)

    engine.script = script
    runner = client.beta.messages.tool_runner(**ASKED, tools=[look])
    last = runner.until_done()
    assert [block.text for block in last.content if block.type == "text"] == [TEXT]
    assert seen == ["x"]


NEUTRAL: list[dict[str, Any]] = [
    {"system": None, "stop_sequences": None, "tools": None, "thinking": None, "metadata": None},
    {"tools": [], "tool_choice": {"type": "auto"}},
    {"metadata": {"user_id": "u"}, "service_tier": "auto", "cache_control": {"type": "ephemeral"}},
    {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
    {"max_tokens": 40.0, "top_k": 0, "top_p": 0, "temperature": 1},
    {
        "system": [
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
        ]
    },
    {"tools": [LOOK | {"type": "custom", "cache_control": None, "strict": False}]},
    {"output_config": {"effort": "high"}},
]


@pytest.mark.parametrize("fields", NEUTRAL)
def test_neutral_values_are_accepted(http: httpx.Client, fields: dict[str, Any]) -> None:
    answer = http.post("/v1/messages", json=ASKED | fields)
    assert answer.status_code == 200, answer.text


def _user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (_user({"type": "image", "source": {}}), "blocks of type 'image'"),
    (_user({"type": "document", "source": {}}), "blocks of type 'document'"),
    (_user({"type": "tool_result", "tool_use_id": "none"}), "no tool_use block before it"),
    (_user({"type": "text"}), "messages.0.content.0.text"),
    (_user(5), "messages.0.content.0"),
    ({"messages": []}, "messages"),
    (_user({"type": "text", "text": "x " * 600}), "prompt is too long"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "must be of role 'user'"),
    ({"messages": [{"role": "bot", "content": "x"}]}, "The role should be"),
    ({"max_tokens": None}, "Missing required parameter: 'max_tokens'"),
    ({"max_tokens": 0}, "greater than or equal to 1"),
    ({"temperature": 1.5}, "less than or equal to 1"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "Tools of type 'bash_20250124'"),
    ({"tools": [LOOK, LOOK]}, "two tools with the name"),
    ({"tools": [LOOK], "tool_choice": {"type": "tool", "name": "leap"}}, "no tool in 'tools'"),
    ({"tool_choice": {"type": "any"}}, "there are no tools"),
    ({"tools": [LOOK], "tool_choice": {"type": "tool"}}, "'tool_choice.name'"),
    ({"thinking": {"type": "enabled"}}, "'thinking.budget_tokens'"),
    ({"thread": {"type": "create"}}, "Keeping a conversation on the server is not supported"),
    ({"mcp_servers": [{"url": "x"}]}, "Connecting to MCP servers is not supported"),
    ({"output_config": {"format": FORMAT}, "output_format": FORMAT}, "not in both"),
    ({"prompt": "x"}, "Unrecognized request argument supplied: prompt"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": 5}}}}, "format"),
]


@pytest.mark.parametrize(("fields", "text"), REFUSED)
def test_bad_requests_are_refused_in_anthropics_shape(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], text: str
) -> None:
    answer = http.post("/v1/messages", json=ASKED | fields)
    assert answer.status_code == 400
    error = ErrorResponse.model_validate_json(answer.content)
    assert error.error.type == "invalid_request_error"
    assert text in error.error.message
    assert error.request_id == answer.headers["request-id"]
    assert not engine.requests


@pytest.mark.parametrize(
    ("raised", "kind", "status"),
    [
        (QueueFull("full", retry_after=3), "overloaded_error", 529),
        (EngineUnavailable("draining"), "api_error", 503),
        (RequestError("too long", param="messages"), "invalid_request_error", 400),
    ],
)
def test_refusals_of_the_engine(
    client: anthropic.Anthropic, engine: FakeEngine, raised: Any, kind: str, status: int
) -> None:
    engine.refuse = raised
    with pytest.raises(anthropic.APIStatusError) as caught:
        answered(client, False)
    assert caught.value.status_code == status
    assert ErrorResponse.model_validate(caught.value.body).error.type == kind


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_errors_outside_the_route(http: httpx.Client, tokenizer: ChatTokenizer, path: str) -> None:
    asked: dict[str, Any] = {"model": "other", "messages": HELLO}
    limit = {"max_tokens": 9} if path == "/v1/messages" else {}
    assert _kind(http.post(path, json=asked | limit)) == (404, "not_found_error")
    assert _kind(http.get(path)) == (405, "invalid_request_error")
    json_type = {"Content-Type": "application/json"}
    assert _kind(http.post(path, content=b"{", headers=json_type)) == (400, "invalid_request_error")
    app = make_app(FakeEngine(lambda r: Script()), tokenizer, api_key="sesame", max_body_bytes=1024)
    with serving(app) as url, httpx.Client(base_url=url) as locked:
        assert _kind(locked.post(path, json=ASKED)) == (401, "authentication_error")
        wrong = locked.post(path, json=ASKED, headers={"x-api-key": "open"})
        assert _kind(wrong) == (401, "authentication_error")
        key = {"x-api-key": "sesame"}
        large = locked.post(path, json=ASKED | {"system": "x" * 1024}, headers=key)
        assert _kind(large) == (413, "request_too_large")
        assert _client(url, "sesame").messages.create(**ASKED).stop_reason == "end_turn"
        bearer = {"Authorization": "Bearer sesame"}
        assert locked.post("/v1/messages", json=ASKED, headers=bearer).status_code == 200
        # other doors keep OpenAI's shape
        assert "code" in locked.get("/v1/models").json()["error"]


def _kind(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    if answer.status_code != 413:  # the package has no class for Anthropic's documented type
        ErrorResponse.model_validate(body)
    assert body["request_id"] == answer.headers["request-id"]
    return answer.status_code, body["error"]["type"]


def test_a_failing_engine_ends_the_stream_with_an_error(
    http: httpx.Client, client: anthropic.Anthropic, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, TEXT, finish=FinishReason.ERROR, error="the device is lost")
    body = http.post("/v1/messages", json=ASKED | {"stream": True}).text
    *_, last = body.strip().split("\n\n")
    name, data = last.split("\n")
    assert name == "event: error"
    error = ErrorResponse.model_validate_json(data.removeprefix("data: "))
    assert (error.error.type, error.error.message) == ("api_error", "the device is lost")
    with pytest.raises(anthropic.APIError):
        answered(client, True)
    with pytest.raises(anthropic.InternalServerError):
        answered(client, False)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_generation(
    http: httpx.Client, engine: FakeEngine, stream: bool
) -> None:
    engine.script = lambda request: Script(hang=True)
    body = ASKED | {"stream": stream}
    if stream:
        with http.stream("POST", "/v1/messages", json=body) as answer:
            assert next(answer.iter_lines()) == "event: message_start"
    else:
        with asked(str(http.base_url), "/v1/messages", body):
            eventually(lambda: engine.live == 1)
    eventually(lambda: engine.aborted and not engine.live)


def test_a_stream_that_waits_is_kept_alive(tokenizer: ChatTokenizer) -> None:
    engine = FakeEngine(lambda request: Script(hang=True))
    app = make_app(engine, tokenizer, keep_alive=0.05)
    with (
        serving(app) as url,
        httpx.stream("POST", f"{url}/v1/messages", json=ASKED | {"stream": True}) as answer,
    ):
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        data = [json.loads(next(lines).removeprefix("data: ")) for _ in range(2)]
    assert [item["type"] for item in data] == ["message_start", "ping"]


def test_a_conversation_as_templates_read_it() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1"}
    turns = [
        {"role": "system", "content": "No jokes."},
        {"role": "user", "content": "one"},
        {"role": "user", "content": [{"type": "text", "text": " two"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "?"},
                {"type": "text", "text": "Let me see."},
                use,
            ],
        },
        {
            "role": "user",
            "content": [
                result | {"content": [{"type": "text", "text": "a wall"}]},
                result | {"content": "lost", "is_error": True},
                result,
                {"type": "text", "text": "And?"},
            ],
        },
    ]
    system = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    body = MessagesRequest.model_validate(ASKED | {"system": system, "messages": turns})
    prompt = message_ask(body, SamplingParams()).prompt
    function = {"name": "look", "arguments": {"at": 1}}
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages == (
        {"role": "system", "content": "Be brief.\n\nNo jokes."},
        {"role": "user", "content": "one two"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "toolu_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "a wall"},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: lost"},
        {"role": "tool", "tool_call_id": "toolu_1", "content": ""},
        {"role": "user", "content": "And?"},
    )
