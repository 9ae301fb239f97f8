"""Responses over a real socket, through OpenAI's own client and held against its types."""

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from dflash_serve.engine.errors import QueueFull
from dflash_serve.engine.types import FinishReason
from dflash_serve.text.parsers import table
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, Script, asked, eventually, saying
from tests.server.samples import CALLS, TEXT, Place, named_events

URL = "/v1/responses"
MARKUP = table.compose("hermes", "think")
LOOK: dict[str, Any] = {
    "type": "function",
    "name": "look",
    "parameters": {"type": "object", "properties": {"at": {}}, "required": ["at"]},
    "strict": False,
}
ASKED: dict[str, Any] = {"model": "fake/model", "input": "hello"}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def whole(http: httpx.Client, **fields: Any) -> Response:
    answer = http.post(URL, json=ASKED | fields)
    assert answer.status_code == 200, answer.text
    return Response.model_validate_json(answer.content)


def streamed(http: httpx.Client, **fields: Any) -> list[Any]:
    """The events of a stream, each held against the package's own type."""
    found = named_events(http.post(URL, json=ASKED | {"stream": True} | fields).text, EVENT)
    assert [event.sequence_number for event in found] == list(range(len(found)))
    return found


def plain(response: Response) -> Any:
    """A response without what differs from one to the next."""
    ids = {"id", "call_id", "created_at", "completed_at"}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in ids}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(response.model_dump())


def test_a_whole_answer(http: httpx.Client, engine: FakeEngine) -> None:
    fields = {"instructions": "Be brief.", "metadata": {"a": "b"}, "user": "u", "temperature": 0.5}
    answer = whole(http, **fields)
    assert answer.id.startswith("resp_")
    assert (answer.object, answer.model, answer.status) == ("response", "fake/model", "completed")
    assert answer.output_text == TEXT
    [message] = answer.output
    assert (message.type, message.status) == ("message", "completed")
    assert (answer.instructions, answer.metadata, answer.user) == ("Be brief.", {"a": "b"}, "u")
    assert (answer.temperature, answer.error, answer.incomplete_details) == (0.5, None, None)
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(engine.requests[0].prompt)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.completed_at is not None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [LOOK]},
        {"tools": [LOOK], "reasoning": {"effort": "high", "summary": "auto"}},
        {"max_output_tokens": 3},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    ],
)
def test_a_stream_adds_up_to_the_whole(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer, fields: dict[str, Any]
) -> None:
    engine.script = saying(tokenizer, CALLS if "tools" in fields else TEXT)
    events = streamed(http, **fields)
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert plain(events[-1].response) == plain(whole(http, **fields))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == events[-1].response.output
    kind = "response.function_call_arguments.done"  # some versions of the package want the name
    names = [event.to_dict()["name"] for event in events if event.type == kind]
    assert names == [item.name for item in done if item.type == "function_call"]


def test_the_events_of_each_item(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, CALLS)
    items: dict[int, list[str]] = {}
    for event in streamed(http, tools=[LOOK]):
        if hasattr(event, "output_index"):
            kinds = items.setdefault(event.output_index, [])
            kinds += [event.type.removeprefix("response.")] if event.type not in kinds else []
    part = "content_part"
    call = ["function_call_arguments.delta", "function_call_arguments.done"]
    added, done = ["output_item.added"], ["output_item.done"]
    found = {at: list(dict.fromkeys(kinds)) for at, kinds in items.items()}
    assert found == {
        0: [
            *added,
            f"{part}.added",
            *["reasoning_text.delta", "reasoning_text.done"],
            f"{part}.done",
            *done,
        ],
        1: [
            *added,
            f"{part}.added",
            *["output_text.delta", "output_text.done"],
            f"{part}.done",
            *done,
        ],
        2: [*added, *call, *done],
        3: [*added, *call, *done],
    }


@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_reasoning(
    client: openai.OpenAI, engine: FakeEngine, tokenizer: ChatTokenizer, stream: bool
) -> None:
    engine.script = saying(tokenizer, CALLS)
    fields: dict[str, Any] = ASKED | {"tools": [LOOK]}
    if stream:
        with client.responses.stream(**fields) as events:
            answer: Any = events.get_final_response()
    else:
        answer = client.responses.create(**fields)
    thought, message, first, second = answer.output
    assert (thought.type, thought.content[0].text) == ("reasoning", "which one?")
    assert message.content[0].text == "Let me see."
    assert (first.type, first.name, json.loads(first.arguments)) == (
        "function_call",
        "look",
        {"at": "x"},
    )
    assert json.loads(second.arguments) == {"at": [1, 2]}
    assert first.call_id != second.call_id
    assert answer.usage.output_tokens_details.reasoning_tokens > 3


def test_reasoning_as_a_summary(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, CALLS)
    events = streamed(http, reasoning={"summary": "auto"})
    kind = "response.reasoning_summary_text.delta"
    assert "".join(event.delta for event in events if event.type == kind) == "which one?"
    item = events[-1].response.output[0]
    assert ([part.text for part in item.summary], item.content) == (["which one?"], [])


def test_parsing_helpers(
    client: openai.OpenAI, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, '{"name": "Oz", "far": 9}')
    parsed = client.responses.parse(**ASKED, text_format=Place)
    assert parsed.output_parsed == Place(name="Oz", far=9)
    with client.responses.stream(**ASKED, text_format=Place) as stream:
        assert stream.get_final_response().output_parsed == Place(name="Oz", far=9)
    assert all(request.grammar is not None for request in engine.requests)
    turns: Any = [{"role": "user", "content": "hello"}, *parsed.output]
    client.responses.create(model="fake/model", input=[*turns, turns[0]])
    assert '"far": 9' in tokenizer.decode(engine.requests[-1].prompt)


@pytest.mark.parametrize("stream", [False, True])
def test_the_token_limit(http: httpx.Client, stream: bool) -> None:
    fields = {"max_output_tokens": 3}
    if stream:
        last = streamed(http, **fields)[-1]
        assert last.type == "response.incomplete"
        answer = last.response
    else:
        answer = whole(http, **fields)
    assert answer.status == answer.output[0].status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_answer_has_a_message(
    http: httpx.Client, engine: FakeEngine, stream: bool
) -> None:
    engine.script = lambda request: Script()
    answer = streamed(http)[-1].response if stream else whole(http)
    assert [item.type for item in answer.output] == ["message"]
    assert answer.output_text == ""


def test_logprobs(http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer) -> None:
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    [message] = whole(http, **fields).output
    ids = tokenizer.backend.encode(TEXT).ids
    probs = message.content[0].logprobs
    assert [entry.logprob for entry in probs[: len(ids)]] == [-token / 1000 for token in ids]
    assert all(len(entry.top_logprobs) == 2 for entry in probs)
    assert engine.requests[0].logprobs == 2
    assert b"".join(bytes(entry.bytes) for entry in probs[: len(ids)]).decode() == TEXT


def test_a_conversation_goes_on(
    client: openai.OpenAI, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    first = client.responses.create(**ASKED, instructions="Be brief.")
    fields: Any = {"model": "fake/model", "previous_response_id": first.id, "input": "and?"}
    with client.responses.stream(**fields) as stream:
        second = stream.get_final_response()
    third = client.responses.create(**fields | {"previous_response_id": second.id})
    assert (second.previous_response_id, third.previous_response_id) == (first.id, second.id)
    said = tokenizer.decode(engine.requests[2].prompt)
    assert said.count(TEXT) == 2
    assert said.count("and?") == 2
    assert "Be brief." not in said  # instructions are of one request only


def test_tool_results_by_previous_response(
    client: openai.OpenAI, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, CALLS)
    asked: Any = client.responses.create(**ASKED, tools=[LOOK])  # type: ignore[list-item]
    results: Any = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "a wall"}
        for item in asked.output
        if item.type == "function_call"
    ]
    engine.script = saying(tokenizer, TEXT)
    answer = client.responses.create(
        model="fake/model", input=results, previous_response_id=asked.id
    )
    assert answer.output_text == TEXT
    by_hand: Any = [{"role": "user", "content": "hello"}, *asked.output, *results]
    client.responses.create(model="fake/model", input=by_hand)
    assert engine.requests[1].prompt == engine.requests[2].prompt


def test_a_conversation_goes_on_after_a_call_was_cut_off(
    client: openai.OpenAI, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, CALLS)
    cut = len(tokenizer.backend.encode(CALLS).ids) - 20
    asked: Any = client.responses.create(**ASKED, tools=[LOOK], max_output_tokens=cut)  # type: ignore[list-item]
    *_, first, last = asked.output
    assert (first.status, last.type, last.status) == ("completed", "function_call", "incomplete")
    engine.script = saying(tokenizer, TEXT)
    more = client.responses.create(**ASKED, previous_response_id=asked.id)
    assert more.output_text == TEXT


def test_items_are_found_by_reference(
    client: openai.OpenAI, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    first = client.responses.create(**ASKED)
    name = first.output[0].id
    assert name is not None
    items: Any = [{"type": "item_reference", "id": name}, {"role": "user", "content": "and?"}]
    client.responses.create(model="fake/model", input=items)
    assert TEXT in tokenizer.decode(engine.requests[1].prompt)


def test_counted_tokens_are_those_used(client: openai.OpenAI) -> None:
    first = client.responses.create(**ASKED)
    fields: Any = {"model": "fake/model", "previous_response_id": first.id, "input": "and?"}
    used = client.responses.create(**fields, tools=[LOOK]).usage
    assert used is not None
    counted = client.responses.input_tokens.count(**fields, tools=[LOOK])
    assert counted.input_tokens == used.input_tokens > 20
    with pytest.raises(openai.BadRequestError):
        client.responses.input_tokens.count(model="fake/model", input=[])


def test_what_is_kept(client: openai.OpenAI) -> None:
    answer = client.responses.create(**ASKED | {"input": [{"role": "user", "content": "one"}]})
    again = client.responses.retrieve(answer.id)
    assert again == answer
    items: Any = client.responses.input_items.list(answer.id).data
    [item] = items
    assert (item.type, item.role, item.content[0].text) == ("message", "user", "one")
    client.responses.delete(answer.id)
    for call in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(answer.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ASKED, previous_response_id=answer.id)
    assert caught.value.code == "previous_response_not_found"
    unkept = client.responses.create(**ASKED, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_input_items_in_pages(http: httpx.Client) -> None:
    turns = [{"role": "user", "content": str(at)} for at in range(5)]
    url = f"{URL}/{whole(http, input=turns).id}/input_items"
    first = http.get(url, params={"limit": 2, "order": "asc"}).json()
    assert [item["content"][0]["text"] for item in first["data"]] == ["0", "1"]
    assert first["has_more"]
    rest = http.get(url, params={"after": first["last_id"], "order": "asc"}).json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["2", "3", "4"]
    assert not rest["has_more"]
    assert http.get(url).json()["data"][0]["content"][0]["text"] == "4"
    for name, value in (("limit", 0), ("limit", 101), ("limit", "x"), ("order", "up")):
        answer = http.get(url, params={name: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert http.get(url, params={"after": "none"}).status_code == 400


NEUTRAL: list[dict[str, Any]] = [
    {"background": False, "truncation": "disabled", "service_tier": "auto", "store": None},
    {"include": ["reasoning.encrypted_content"], "top_logprobs": 0},
    {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "tools": []},
    {"tool_choice": "auto", "parallel_tool_calls": True, "reasoning": {}, "metadata": None},
    {"prompt_cache_key": "k", "safety_identifier": "s", "max_tool_calls": 3, "conversation": None},
    {"max_output_tokens": 5.0, "top_p": 0, "stream_options": None},
]


@pytest.mark.parametrize("fields", NEUTRAL)
def test_neutral_values_are_accepted(http: httpx.Client, fields: dict[str, Any]) -> None:
    whole(http, **fields)


CALL = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
DEEP = '{"a":' + "[" * 700 + "]" * 700 + "}"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"input": []}, "input", "is empty"),
    ({"input": 5}, "input", "a string or a list"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0", ""),
    ({"input": [{"type": "computer_call"}]}, "input.0", "Items of type 'computer_call'"),
    ({"input": [{"id": "none"}]}, "input.0.id", "No item with the id"),
    ({"input": [CALL | {"arguments": "{"}]}, "input.0.arguments", "not valid JSON"),
    ({"input": [CALL | {"arguments": DEEP}]}, "input.0.arguments", "recursion limit"),
    ({"input": [CALL | {"arguments": "[]"}]}, "input.0.arguments", "a JSON object"),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
        "input.0.call_id",
        "No tool call found",
    ),
    ({"tools": [{"type": "web_search"}]}, "tools.0", "Tools of type 'web_search'"),
    ({"tools": [LOOK, LOOK]}, "tools.1.name", "another tool"),
    ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "no tool"),
    ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice", "can be"),
    ({"text": {"format": {"type": "xml"}}}, "text.format", "can be of type"),
    ({"background": True}, "background", "not supported"),
    ({"conversation": "c"}, "conversation", "not supported"),
    ({"truncation": "auto"}, "truncation", "not supported"),
    ({"top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
    ({"previous_response_id": "resp_0"}, "previous_response_id", "not found"),
    ({"messages": []}, "messages", "Unrecognized"),
    ({"model": "other"}, "model", "does not exist"),
]


@pytest.mark.parametrize(("fields", "param", "text"), REFUSED)
def test_bad_requests_are_refused(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], param: str, text: str
) -> None:
    answer = http.post(URL, json=ASKED | fields)
    assert answer.status_code == (404 if param == "model" else 400), answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert text in error["message"]
    assert not engine.requests


def test_a_full_queue_is_said_before_the_stream(http: httpx.Client, engine: FakeEngine) -> None:
    engine.refuse = QueueFull("full", 3)
    answer = http.post(URL, json=ASKED | {"stream": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")


def test_a_failing_engine_fails_the_response(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, TEXT, finish=FinishReason.ERROR, error="the device is lost")
    last = streamed(http)[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert (last.response.error.code, last.response.error.message) == (
        "server_error",
        "the device is lost",
    )
    assert http.post(URL, json=ASKED).status_code == 500
    assert http.get(f"{URL}/{last.response.id}").status_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_generation(
    http: httpx.Client, engine: FakeEngine, stream: bool
) -> None:
    engine.script = lambda request: Script(hang=True)
    body = ASKED | {"stream": stream}
    if stream:
        with http.stream("POST", URL, json=body) as answer:
            assert next(answer.iter_lines()) == "event: response.created"
    else:
        with asked(str(http.base_url), URL, body):
            eventually(lambda: engine.live == 1)
    eventually(lambda: engine.aborted and not engine.live)
