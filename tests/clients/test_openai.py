"""OpenAI's Python client: chat with all that its helpers do, and the errors that it raises."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.clients.conftest import MODEL

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
PARIS = 'call get_weather({"city": "Paris"})'
ROME = 'call get_weather({"city": "Rome"})'


class Step(BaseModel):
    explanation: str
    output: int


class Answer(BaseModel):
    steps: list[Step]
    verdict: Literal["right", "wrong"]


STEPS = '{"steps": [{"explanation": "add", "output": 5}], "verdict": "right"}'


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", timeout=60, max_retries=0) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def create(client: openai.OpenAI, text: str, **options: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=user(text), **options)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_text_and_stream_agree(client: openai.OpenAI) -> None:
    whole = create(client, "Tell me a story").choices[0]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(create(client, "Tell me a story", **options))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.message.content
    assert whole.message.content.startswith("Once upon a time a fox")
    assert len([text for text in texts if text]) > 5
    details = chunks[-1].usage.completion_tokens_details
    assert details.accepted_prediction_tokens > 0
    assert details.rejected_prediction_tokens > 0


def test_a_tool_is_called_and_its_result_used(client: openai.OpenAI) -> None:
    asked = create(client, PARIS, tools=[WEATHER]).choices[0]
    assert asked.finish_reason == "tool_calls"
    assert asked.message.content is None
    (call,) = asked.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
    messages = [*user(PARIS), asked.message, result]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "The result is 21 degrees."
    assert answer.choices[0].finish_reason == "stop"


def test_parallel_calls_and_their_deltas(client: openai.OpenAI) -> None:
    chunks = list(create(client, f"{PARIS} and {ROME}", tools=[WEATHER], stream=True))
    calls: dict[int, dict[str, Any]] = {}
    for delta in (chunk.choices[0].delta for chunk in chunks if chunk.choices):
        assert not (delta.content and "tool_call" in delta.content)
        for part in delta.tool_calls or []:
            call = calls.setdefault(part.index, {"arguments": ""})
            if part.id:
                call |= {"id": part.id, "name": part.function.name, "type": part.type}
            call["arguments"] += part.function.arguments or ""
    assert [json.loads(call["arguments"])["city"] for call in calls.values()] == ["Paris", "Rome"]
    assert {call["name"] for call in calls.values()} == {"get_weather"}
    assert len({call["id"] for call in calls.values()}) == 2
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_one_call_where_parallel_ones_are_refused(client: openai.OpenAI) -> None:
    text = f"{PARIS} and {ROME}"
    for choice in ("auto", "required"):
        answer = create(
            client, text, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False
        )
        assert len(answer.choices[0].message.tool_calls) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("none", set()),
        ("auto", set()),
        ("required", {"get_weather", "clock"}),
        ({"type": "function", "function": {"name": "clock"}}, {"clock"}),
        ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"}),
    ],
)
def test_tool_choice(client: openai.OpenAI, choice: Any, names: set[str], stream: bool) -> None:
    """The model answers in words of its own accord: it calls only what it is made to."""
    options = {"tools": [WEATHER, CLOCK], "tool_choice": choice}
    if stream:
        with client.chat.completions.stream(
            model=MODEL, messages=user("Hello!"), **options
        ) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = create(client, "Hello!", **options).choices[0]
    called = {call.function.name for call in choice.message.tool_calls or []}
    assert called <= names
    assert bool(called) == bool(names)
    if not names:
        assert choice.message.content == "You said: Hello!"
    for call in choice.message.tool_calls or []:
        assert isinstance(json.loads(call.function.arguments), dict)


def test_strict_arguments_are_made_to_validate(client: openai.OpenAI) -> None:
    function = WEATHER["function"]
    properties = function["parameters"]["properties"]
    strict = {"strict": True, "parameters": function["parameters"] | {"required": [*properties]}}
    tool = {"type": "function", "function": function | strict}
    answer = create(client, 'call get_weather({"town": 5})', tools=[tool])
    (call,) = answer.choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "unit"}
    assert arguments["unit"] in ("celsius", "fahrenheit")


def test_broken_markup_is_not_lost(client: openai.OpenAI) -> None:
    """No dropped connection, no lost word: what is no JSON is read as text from there on."""
    choice = create(client, "call get_weather({not json})", tools=[WEATHER]).choices[0]
    assert "not json" in choice.message.content
    named = create(client, "say: <tool_call>{}</tool_call>", tools=[WEATHER]).choices[0]
    assert named.message.tool_calls is None
    assert named.finish_reason == "stop"


def test_pydantic_function_tools(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Answer)
    answer = client.chat.completions.parse(
        model=MODEL, messages=user("Hello!"), tools=[tool], tool_choice="required"
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Answer)


def test_structured_output_is_parsed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=user(f"Give me {STEPS}"), response_format=Answer
    )
    assert answer.choices[0].message.parsed == Answer.model_validate_json(STEPS)
    lost = client.chat.completions.parse(
        model=MODEL, messages=user("Hello!"), response_format=Answer
    )
    assert isinstance(lost.choices[0].message.parsed, Answer)


def test_structured_output_streamed(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=user(f"Give me {STEPS}"), response_format=Answer
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Answer.model_validate_json(STEPS)
    assert {"chunk", "content.delta", "content.done"} <= set(kinds)


def test_json_object(client: openai.OpenAI) -> None:
    answer = create(client, "Hello!", response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("extension", "allowed"),
    [
        ({"choice": ["yes", "no"]}, {"yes", "no"}),
        ({"regex": "(red|blue)-[0-9]"}, {f"{c}-{i}" for c in ("red", "blue") for i in range(10)}),
        ({"grammar": 'start: "a" "b"+ "."'}, {"a" + "b" * i + "." for i in range(1, 99)}),
    ],
)
def test_extensions_bind_the_text(
    client: openai.OpenAI, extension: dict[str, Any], allowed: set[str]
) -> None:
    answer = create(client, "Hello!", extra_body=extension, max_tokens=120)
    assert answer.choices[0].message.content in allowed


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: openai.OpenAI, stream: bool) -> None:
    options = {"logprobs": True, "top_logprobs": 3}
    if stream:
        chunks = list(create(client, "say: fox and cat", stream=True, **options))
        tokens = [
            token
            for chunk in chunks
            if chunk.choices and chunk.choices[0].logprobs
            for token in chunk.choices[0].logprobs.content
        ]
    else:
        tokens = create(client, "say: fox and cat", **options).choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == "fox and cat"
    for token in tokens:
        assert bytes(token.bytes).decode() == token.token
        assert -1e-3 < token.logprob <= 0
        assert token.top_logprobs[0].token == token.token
        assert len(token.top_logprobs) == 3
        values = [top.logprob for top in token.top_logprobs]
        assert values == sorted(values, reverse=True)


def test_reasoning_is_apart(client: openai.OpenAI) -> None:
    message = create(client, "Think, and say: done").choices[0].message
    assert message.content == "done"
    assert message.reasoning_content.startswith("The user asks")
    chunks = list(create(client, "Think, and say: done", stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "done"
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thought.strip() == message.reasoning_content.strip()
    silent = create(client, "Think, and say: done", reasoning_effort="none").choices[0].message
    assert silent.content == "done"
    assert not getattr(silent, "reasoning_content", None)


def test_reasoning_and_a_call(client: openai.OpenAI) -> None:
    choice = create(client, f"Think, then {PARIS}", tools=[WEATHER]).choices[0]
    assert choice.message.reasoning_content
    assert choice.message.tool_calls[0].function.name == "get_weather"


def test_reasoning_is_bounded_and_free_of_the_grammar(client: openai.OpenAI) -> None:
    bounded = create(client, "Think, and say: done", extra_body={"thinking_budget": 3})
    assert bounded.choices[0].message.content == "done"
    assert len(bounded.choices[0].message.reasoning_content) < 20
    form = {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": Answer.model_json_schema()},
    }
    for text, options in (
        (f"Think, then give me {STEPS}", {"response_format": form}),
        ("Think, then Hello!", {"tools": [WEATHER], "tool_choice": "required"}),
    ):
        message = create(client, text, **options).choices[0].message
        assert "I weigh it" in message.reasoning_content
        if message.tool_calls:
            assert isinstance(json.loads(message.tool_calls[0].function.arguments)["city"], str)
        else:
            assert message.content == STEPS


def test_ends_of_an_answer(client: openai.OpenAI) -> None:
    longer = create(client, "say: hi", extra_body={"min_tokens": 12})
    assert longer.choices[0].message.content.startswith("hiOnce upon")
    assert longer.usage.completion_tokens >= 12
    cut = create(client, "Tell me a story", stop=[" fox"]).choices[0]
    assert (cut.message.content, cut.finish_reason) == ("Once upon a time a", "stop")
    extension = {"include_stop_str_in_output": True}
    kept = create(client, "Tell me a story", stop=[" fox"], extra_body=extension).choices[0]
    assert kept.message.content == "Once upon a time a fox"


def test_bias_bans_a_token(client: openai.OpenAI, http: httpx.Client) -> None:
    assert create(client, "say: fox fox fox").choices[0].message.content == "fox fox fox"
    ids = http.post("/tokenize", json={"model": MODEL, "prompt": "fox"}).json()["tokens"]
    banned = create(client, "say: fox fox fox", logit_bias={str(ids[0]): -100}, max_tokens=8)
    assert not banned.choices[0].message.content.startswith("fox")


def test_everything_at_once(client: openai.OpenAI) -> None:
    """Fields that other servers know or that change nothing: accepted."""
    answer = create(
        client,
        "say: fox",
        n=2,
        seed=1,
        top_p=1,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        stop=["zzz"],
        store=False,
        metadata={"a": "b"},
        user="me",
        service_tier="auto",
        prediction={"type": "content", "content": "fox"},
        safety_identifier="x",
        verbosity="medium",
        extra_body={"min_tokens": 1, "top_k": 5, "repetition_penalty": 1.1},
    )
    assert [choice.message.content for choice in answer.choices] == ["fox", "fox"]
    assert answer.service_tier in (None, "default")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"n": 129}, "n"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": "get_weather"}, "tool_choice"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "function", "function": {"name": "x"}},
            },
            "tool_choice",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "nothing"}},
                }
            },
            "response_format",
        ),
        ({"extra_body": {"regex": "("}}, "regex"),
        ({"extra_body": {"not_a_field": 1}}, "not_a_field"),
    ],
)
def test_bad_requests_name_the_field(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, "hello", **fields)
    assert caught.value.param is not None
    assert caught.value.param.split(".")[0].split("[")[0] == param
    assert caught.value.type == "invalid_request_error"


def test_other_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=user("hello"))
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        create(client, "fox " * 40_000)
    assert long.value.code == "context_length_exceeded"
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages: list[Any] = [{"role": "user", "content": [part]}]
    with pytest.raises(openai.BadRequestError) as image:
        client.chat.completions.create(model=MODEL, messages=messages)
    assert "image" in str(image.value)


async def test_async_client_streams_and_closes(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=user("count to 3000"), stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        await stream.close()
        again = await client.chat.completions.create(model=MODEL, messages=user("say: on"))
    assert again.choices[0].message.content == "on"
