"""Tool calls and reasoning through chat completions: what the model writes, what clients get."""

import json
from typing import Any

import httpx
import pytest

from dflash_serve.engine.types import EngineRequest, FinishReason
from dflash_serve.text.parsers import table
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import CHATML, FakeEngine, Script, make_app, save_tokenizer, saying, serving
from tests.server import shapes

URL = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "integer"}},
    "required": ["at"],
    "additionalProperties": False,
}
LOOK = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
WAIT = {"type": "function", "function": {"name": "wait", "description": "Do nothing."}}
GOOD: dict[str, Any] = {
    "model": "fake/model",
    "messages": [{"role": "user", "content": "hello"}],
    "tools": [LOOK, WAIT],
}
ONE = '<tool_call>\n{"name": "look", "arguments": {"at": 12}}\n</tool_call>'
TEXT = "Let me see.\n" + ONE + '\n<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call>'
THOUGHT = "<think>\nhm, let me see\n</think>\n\n"
MARKUP = table.by_name("hermes")
MAX_CONTEXT = 2048


def whole(http: httpx.Client, **fields: Any) -> Any:
    answer = http.post(URL, json=GOOD | fields)
    assert answer.status_code == 200, answer.text
    return shapes.completion(answer.content).choices[0]


def streamed(http: httpx.Client, **fields: Any) -> list[Any]:
    answer = http.post(URL, json=GOOD | fields | {"stream": True})
    assert answer.status_code == 200, answer.text
    return [chunk.choices[0] for chunk in shapes.chunks(answer.text)]


def prompt_of(engine: FakeEngine, tokenizer: ChatTokenizer) -> str:
    return tokenizer.decode(engine.requests[-1].prompt)


def test_calls_of_a_whole_answer(http: httpx.Client) -> None:
    choice = whole(http)
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content.strip() == "Let me see."
    first, second = choice.message.tool_calls
    assert (first.type, first.function.name) == ("function", "look")
    assert json.loads(first.function.arguments) == {"at": 12}
    assert (second.function.name, second.function.arguments) == ("wait", "{}")
    assert first.id != second.id
    for call in (first, second):
        assert len(call.id) == len("call_") + 24
        assert call.id.startswith("call_")


def test_an_answer_of_calls_alone_has_no_content(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, ONE)
    message = whole(http).message
    assert message.content is None
    assert len(message.tool_calls) == 1


def test_calls_of_a_streamed_answer_come_piece_by_piece(http: httpx.Client) -> None:
    choices = streamed(http)
    calls = [call for choice in choices for call in choice.delta.tool_calls or ()]
    begins = [call for call in calls if call.id]
    assert [(call.index, call.type, call.function.name) for call in begins] == [
        (0, "function", "look"),
        (1, "function", "wait"),
    ]
    assert all(call.function.name is None and call.type is None for call in calls if not call.id)
    pieces = [call.function.arguments for call in calls if call.index == 0]
    assert len(pieces) > 2
    assert json.loads("".join(pieces)) == {"at": 12}
    assert choices[-1].finish_reason == "tool_calls"
    assert [c.finish_reason for c in choices[:-1]] == [None] * (len(choices) - 1)
    text = "".join(choice.delta.content or "" for choice in choices)
    assert text.strip() == "Let me see."


def test_without_parallel_calls_the_first_one_is_the_last(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, TEXT + " and on" * 100)
    choice = whole(http, parallel_tool_calls=False)
    assert [call.function.name for call in choice.message.tool_calls] == ["look"]
    assert choice.finish_reason == "tool_calls"
    assert engine.aborted == [engine.requests[0].id]
    calls = [
        c
        for choice in streamed(http, parallel_tool_calls=False)
        for c in choice.delta.tool_calls or ()
    ]
    assert {call.index for call in calls} == {0}


@pytest.mark.parametrize("stream", [False, True])
def test_calls_cut_off_by_length_end_with_length(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer, stream: bool
) -> None:
    ids = tokenizer.backend.encode(ONE[: ONE.index("2")], add_special_tokens=False).ids
    engine.script = lambda request: Script((tuple(ids),), FinishReason.LENGTH)
    if stream:
        choices = streamed(http)
        assert any(choice.delta.tool_calls for choice in choices)
    else:
        choices = [whole(http)]
        assert choices[0].message.tool_calls
    assert choices[-1].finish_reason == "length"


def test_tools_reach_the_template(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    whole(http)
    turn = prompt_of(engine, tokenizer).split("<|im_end|>")[0]
    shown = json.loads("[" + turn.removeprefix("<|im_start|>tools\n").replace("}{", "},{") + "]")
    assert shown == [
        {"type": "function", "function": {"name": "look", "parameters": SCHEMA}},
        {
            "type": "function",
            "function": WAIT["function"] | {"parameters": {"type": "object", "properties": {}}},  # type: ignore[operator]
        },
    ]


def test_with_none_no_tool_is_shown_and_no_call_is_read(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    choice = whole(http, tool_choice="none")
    assert "look" not in prompt_of(engine, tokenizer)
    assert choice.message.tool_calls is None
    assert "<tool_call>" in choice.message.content
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize(
    ("choice", "finish", "absent"),
    [
        ("required", "tool_calls", None),
        ({"type": "function", "function": {"name": "look"}}, "stop", "wait"),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "look"}}],
                },
            },
            "tool_calls",
            "wait",
        ),
    ],
)
def test_a_required_call_is_forced_by_a_grammar(
    http: httpx.Client,
    engine: FakeEngine,
    tokenizer: ChatTokenizer,
    choice: Any,
    finish: str,
    absent: str | None,
) -> None:
    engine.script = saying(tokenizer, ONE)
    answer = whole(http, tool_choice=choice)
    assert answer.finish_reason == finish
    assert answer.message.tool_calls[0].function.name == "look"
    assert streamed(http, tool_choice=choice)[-1].finish_reason == finish
    grammar = engine.requests[0].grammar
    assert grammar is not None
    assert "look" in grammar.source
    assert absent is None or absent not in grammar.source


def test_strict_tools_bind_the_arguments_only(http: httpx.Client, engine: FakeEngine) -> None:
    whole(http)
    assert engine.requests[-1].grammar is None
    strict = {"type": "function", "function": LOOK["function"] | {"strict": True}}  # type: ignore[operator]
    whole(http, tools=[strict, WAIT])
    assert engine.requests[-1].grammar is not None


def test_tools_and_a_format_allow_either(http: httpx.Client, engine: FakeEngine) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    whole(http, response_format=form)
    grammar: Any = engine.requests[-1].grammar
    for text in (ONE, '{"at": 5}'):
        assert accepts(engine, grammar, text)
    assert not accepts(engine, grammar, "hello")


def accepts(engine: FakeEngine, grammar: Any, text: str) -> bool:
    matcher = grammar.start()
    ids = list(text.encode())
    table_of = {byte: token for token, byte in BYTES.items()}
    taken = matcher.try_consume_tokens([table_of[byte] for byte in ids])
    return bool(taken == len(ids) and matcher.is_accepting())


BYTES: dict[int, int] = {}


@pytest.fixture(scope="module", autouse=True)
def single_bytes(tokenizer: ChatTokenizer) -> None:
    """The tokens that are one byte, so that any text can be fed to a grammar."""
    for token in range(tokenizer.backend.get_vocab_size()):
        data = tokenizer.token_text.data(token)
        if len(data) == 1:
            BYTES.setdefault(token, data[0])


def test_reasoning_is_split_off(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, THOUGHT + "Forty-two.")
    answer = shapes.completion(http.post(URL, json=GOOD).content)
    message: Any = answer.choices[0].message
    assert message.content == "Forty-two."
    assert message.reasoning_content.strip() == message.reasoning.strip() == "hm, let me see"
    details = answer.usage.completion_tokens_details  # type: ignore[union-attr]
    thought = len(tokenizer.backend.encode(THOUGHT.rstrip()).ids)
    assert details is not None
    assert abs((details.reasoning_tokens or 0) - thought) <= 2
    deltas: list[Any] = [choice.delta for choice in streamed(http)]
    reasoning = "".join(delta.model_extra.get("reasoning_content") or "" for delta in deltas)
    assert reasoning == message.reasoning_content
    assert reasoning == "".join(delta.model_extra.get("reasoning") or "" for delta in deltas)
    assert "".join(delta.content or "" for delta in deltas) == "Forty-two."


def rule(engine: FakeEngine) -> Any:
    return engine.requests[-1].thinking


def test_a_budget_bounds_the_reasoning(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    whole(http)
    assert rule(engine) is None
    for name in ("thinking_budget", "thinking_token_budget"):
        whole(http, **{name: 7})
        assert rule(engine).budget == 7
        assert rule(engine).open == tokenizer.encode_markup("<think>")
        assert rule(engine).close == tokenizer.encode_markup("</think>")
        assert not rule(engine).begun


def test_a_grammar_begins_behind_the_reasoning(http: httpx.Client, engine: FakeEngine) -> None:
    whole(http, response_format={"type": "json_object"})
    assert rule(engine).budget is None
    assert rule(engine).open
    whole(http, response_format={"type": "json_object"}, reasoning_effort="none")
    assert rule(engine) is None


@pytest.mark.parametrize("off", [{"reasoning_effort": "none"}, {"enable_thinking": False}])
def test_reasoning_can_be_switched_off(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer, off: dict[str, Any]
) -> None:
    whole(http, **off)
    assert prompt_of(engine, tokenizer).endswith("<think>\n\n</think>\n\n")
    whole(http, **off, chat_template_kwargs={"enable_thinking": True})
    assert prompt_of(engine, tokenizer).endswith("assistant\n")


@pytest.mark.parametrize("effort", ["minimal", "low", "medium", "high", "xhigh"])
def test_any_effort_is_taken(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer, effort: str
) -> None:
    whole(http, reasoning_effort=effort)
    assert prompt_of(engine, tokenizer).endswith("assistant\n")


def test_an_answer_with_calls_is_history_of_the_next(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.script = saying(tokenizer, THOUGHT + TEXT)
    said = whole(http).message
    for dump in (said.model_dump(), said.model_dump(exclude_none=True)):
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": [{"type": "text", "text": "a"}]}
            for call in dump["tool_calls"]
        ]
        whole(http, messages=[*GOOD["messages"], dump, *results])
    prompt = prompt_of(engine, tokenizer)
    assert prompt.count("<|im_start|>tool\na<|im_end|>") == 2


def test_a_template_without_a_switch_is_stopped_from_thinking(
    tmp_path: Any, tokenizer: ChatTokenizer
) -> None:
    bare = CHATML.split("{%- if enable_thinking")[0] + "{{- '<think>\\n' }}{%- endif %}"
    thinker = ChatTokenizer.load(save_tokenizer(tmp_path, bare))
    engine = FakeEngine(saying(thinker, "hm</think>\n\nhello"))
    with serving(make_app(engine, thinker)) as url, httpx.Client(base_url=url, timeout=60) as http:
        choice = whole(http, tools=None)
        assert choice.message.content == "hello"
        assert choice.message.reasoning == "hm"
        assert rule(engine) is None
        whole(http, tools=None, reasoning_effort="none")
        assert rule(engine).begun
        assert rule(engine).budget == 0


def test_each_choice_has_a_parser_of_its_own(
    http: httpx.Client, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    def script(request: EngineRequest) -> Script:
        return saying(tokenizer, ONE if request.id.endswith("-0") else "words", pause=0.001)(
            request
        )

    engine.script = script
    answer = shapes.completion(http.post(URL, json=GOOD | {"n": 2}).content)
    first, second = answer.choices
    assert first.finish_reason == "tool_calls"
    assert (second.finish_reason, second.message.content) == ("stop", "words")
