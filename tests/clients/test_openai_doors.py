"""OpenAI's Python client at the other doors: text completions and responses."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.clients.conftest import MODEL
from tests.clients.test_openai import PARIS, STEPS, WEATHER, Answer

TOOL: dict[str, Any] = {"type": "function", **WEATHER["function"]}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", timeout=60, max_retries=0) as client:
        yield client


def complete(client: openai.OpenAI, prompt: Any, **options: Any) -> Any:
    return client.completions.create(
        model=MODEL, prompt=prompt, **{"max_tokens": 8, "temperature": 0} | options
    )


def respond(client: openai.OpenAI, text: Any, **options: Any) -> Any:
    return client.responses.create(model=MODEL, input=text, **options)


def test_completions(client: openai.OpenAI) -> None:
    whole = complete(client, "Once upon a time a").choices[0]
    assert whole.text.startswith(" fox lived at the")
    assert whole.finish_reason == "length"
    chunks = list(complete(client, "Once upon a time a", stream=True))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.text
    echoed = complete(client, "Once upon a time a", echo=True).choices[0].text
    assert echoed == "Once upon a time a" + whole.text
    stopped = complete(client, "Once upon a time a", stop=" at", max_tokens=40).choices[0]
    assert (stopped.text, stopped.finish_reason) == (" fox lived", "stop")


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    prompts = ["Once upon a time a", "counting the stones. One,"]
    answer = complete(client, prompts, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text
    assert answer.choices[2].text.startswith(" two, three")


def test_completions_logprobs(client: openai.OpenAI) -> None:
    choice = complete(client, "Once upon a time a", logprobs=2, echo=True).choices[0]
    found = choice.logprobs
    assert "".join(found.tokens) == choice.text
    assert found.token_logprobs[0] is None
    assert all(value <= 0 for value in found.token_logprobs[1:])
    assert found.text_offset == [
        sum(len(token) for token in found.tokens[:at]) for at in range(len(found.tokens))
    ]


def test_completions_refuse_a_suffix(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, "x", suffix="y")
    assert caught.value.param == "suffix"


def test_response_and_its_stream_agree(client: openai.OpenAI) -> None:
    whole = respond(client, "Tell me a story", instructions="Be brief.")
    assert whole.status == "completed"
    assert whole.output_text.startswith("Once upon a time a fox")
    with client.responses.stream(model=MODEL, input="Tell me a story") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert len(deltas) > 5
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")]


def test_conversation_by_previous_response(client: openai.OpenAI) -> None:
    first = respond(client, "say: fox")
    second = respond(client, "say: cat", previous_response_id=first.id)
    assert second.output_text == "cat"
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(first.id).output_text == "fox"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.APIStatusError) as lost:
        respond(client, "say: cat", previous_response_id="resp_none")
    assert lost.value.status_code in (400, 404)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(respond(client, "say: fox", store=False).id)


@pytest.mark.parametrize("stream", [False, True])
def test_response_tools(client: openai.OpenAI, stream: bool) -> None:
    if stream:
        with client.responses.stream(model=MODEL, input=PARIS, tools=[TOOL]) as events:  # type: ignore[list-item]
            kinds = {event.type for event in events}
            asked = events.get_final_response()
        assert "response.function_call_arguments.delta" in kinds
    else:
        asked = respond(client, PARIS, tools=[TOOL])
    (call,) = [item for item in asked.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Paris"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    answer = respond(client, [result], previous_response_id=asked.id, tools=[TOOL])
    assert answer.output_text == "The result is 21 degrees."
    replayed = [{"role": "user", "content": PARIS}, *asked.output, result]
    assert respond(client, replayed, tools=[TOOL]).output_text == answer.output_text


def test_response_tool_choice(client: openai.OpenAI) -> None:
    for choice in ("required", {"type": "function", "name": "get_weather"}):
        forced = respond(client, "Hello!", tools=[TOOL], tool_choice=choice)
        assert [item.type for item in forced.output] == ["function_call"]
    free = respond(client, "Hello!", tools=[TOOL], tool_choice="none")
    assert free.output_text == "You said: Hello!"


def test_response_structured_output(client: openai.OpenAI) -> None:
    answer = client.responses.parse(model=MODEL, input=f"Give me {STEPS}", text_format=Answer)
    assert answer.output_parsed == Answer.model_validate_json(STEPS)
    with client.responses.stream(
        model=MODEL, input=f"Give me {STEPS}", text_format=Answer
    ) as stream:
        final = stream.get_final_response()
    assert final.output_parsed == answer.output_parsed


def test_response_reasoning(client: openai.OpenAI) -> None:
    answer = respond(client, "Think, and say: done", reasoning={"effort": "low"})
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output_text == "done"
    assert answer.usage.output_tokens_details.reasoning_tokens > 5
    silent = respond(client, "Think, and say: done", reasoning={"effort": "none"})
    assert [item.type for item in silent.output] == ["message"]
    replayed = [
        {"role": "user", "content": "Think, and say: done"},
        *answer.output,
        {"role": "user", "content": "say: more"},
    ]
    assert respond(client, replayed).output_text == "more"


def test_response_at_its_limit(client: openai.OpenAI) -> None:
    answer = respond(client, "Tell me a story", max_output_tokens=16)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"extra_body": {"not_a_field": 1}}, "not_a_field"),
    ],
)
def test_bad_responses_name_the_field(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        respond(client, "hello", **fields)
    assert (caught.value.param or "").split(".")[0].split("[")[0] == param
