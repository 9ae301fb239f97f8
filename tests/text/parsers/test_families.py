"""What each markup's answers mean: reasoning, content and calls."""

from typing import Any

import pytest

from dflash_serve.text.parsers.base import CallArguments, CallBegin, Content
from dflash_serve.text.parsers.table import by_name, compose
from tests.text.parsers.answers import TOOLS, calls, merged, parse, texts

HARD = 'a "q" \\ {[<tool_call>]} é 🙂\n\tend'
HARD_JSON = r'"a \"q\" \\ {[<tool_call>]} \u00e9 🙂\n\tend"'
W, C = "get_weather", "clock"
Calls = list[tuple[str, Any]]

ANSWERS: list[tuple[str, str, str, str, Calls]] = [
    # markup, answer, reasoning, content, calls
    (
        "hermes",
        "<think>\nHm.\n</think>\n\nLet me look.\n"
        f'<tool_call>\n{{"name": "{W}", "arguments": {{"city": {HARD_JSON}}}}}\n</tool_call>\n'
        f'<tool_call>\n{{"name": "{C}", "arguments": {{}}}}\n</tool_call>',
        "Hm.",
        "Let me look.",
        [(W, {"city": HARD}), (C, {})],
    ),
    (
        "hermes",
        f'One <tool_call>{{"arguments": {{"days": [1, {{"x": null}}]}}, "id": 7, "name": "{W}"}}'
        f'</tool_call> two\n<tool_call>{{"name": "{C}"}}</tool_call>\n three ',
        "",
        "One two\nthree ",
        [(W, {"days": [1, {"x": None}]}), (C, {})],
    ),
    (
        "hermes",
        f'<tool_call>{{"name":"{W}","arguments":"{{\\"city\\": \\"Rom\\"}}"}}</tool_call>',
        "",
        "",
        [(W, {"city": "Rom"})],
    ),
    (
        "hermes",
        f'<tool_call>{{"name":"{W}","arguments":{{"city":"two\nlines"}}}}</tool_call>',
        "",
        "",
        [(W, {"city": "two\nlines"})],
    ),
    (
        "hermes",
        f'<tool_call>\n{{"name": "{C}", "arguments": null}}\n'
        f'{{"name": "{C}", "arguments": ""}}\n</tool_call>',
        "",
        "",
        [(C, {}), (C, {})],
    ),
    (
        "qwen_xml",
        "<think>\nHm.\n</think>\n\nLook:\n<tool_call>\n<function=get_weather>\n"
        f"<parameter=city>\n{HARD}\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "<parameter=unit>\nnull\n</parameter>\n"
        '<parameter=place>\n{"lat": 1.5}\n</parameter>\n'
        "<parameter=flags>\n[true]\n</parameter>\n</function>\n</tool_call>",
        "Hm.",
        "Look:",
        [(W, {"city": HARD, "days": 3, "unit": None, "place": {"lat": 1.5}, "flags": [True]})],
    ),
    (
        "qwen_xml",
        "<tool_call>\n<function=clock>\n</function>\n</tool_call>\n"
        "<function=get_weather><parameter=city>5</parameter>"
        "<parameter=unit>nullify</parameter></function> so",
        "",
        "so",
        [(C, {}), (W, {"city": "5", "unit": "nullify"})],
    ),
    (
        "qwen_xml",
        "<function=get_weather>\n<parameter=city>\n\n two\nlines \n\n</parameter>\n"
        "<parameter=days>\nmany\n</parameter>\n<parameter=flags>True</parameter></function>",
        "",
        "",
        [(W, {"city": "\n two\nlines \n", "days": "many", "flags": "True"})],
    ),
    (
        "llama3",
        f'{{"name": "{W}", "parameters": {{"city": {HARD_JSON}}}}}; '
        f'{{"type": "function", "name": "{C}", "parameters": {{}}}}',
        "",
        "",
        [(W, {"city": HARD}), (C, {})],
    ),
    (
        "llama3",
        f'Sure. <|python_tag|>{{"name": "{C}", "parameters": {{}}}}',
        "",
        "Sure.",
        [(C, {})],
    ),
    (
        "mistral",
        f'[THINK]Hm.[/THINK]Look[TOOL_CALLS]{W}[ARGS]{{"city": {HARD_JSON}}}'
        f"[TOOL_CALLS]{C}[CALL_ID]abc123XYZ[ARGS]{{}}",
        "Hm.",
        "Look",
        [(W, {"city": HARD}), (C, {})],
    ),
    (
        "mistral_array",
        f'[TOOL_CALLS] [{{"name": "{W}", "arguments": {{"city": "[ARGS]"}}, "id": "abc"}}, '
        f'{{"name": "{C}", "arguments": {{}}}}]',
        "",
        "",
        [(W, {"city": "[ARGS]"}), (C, {})],
    ),
    (
        "gemma4",
        "<|channel>thought\nHm.\n<channel|>Look"
        f'<|tool_call>call:{W}{{city:<|"|>{HARD}<|"|>,days:-2,place:{{lat:1.5e3}},'
        f'flags:[true,false,<|"|>x<|"|>,null,[]]}}<tool_call|><|tool_call>call:{C}{{}}<tool_call|>',
        "Hm.",
        "Look",
        [
            (
                W,
                {
                    "city": HARD,
                    "days": -2,
                    "place": {"lat": 1500.0},
                    "flags": [True, False, "x", None, []],
                },
            ),
            (C, {}),
        ],
    ),
    (
        "lfm2",
        f"Look<|tool_call_start|>[{W}(city='a \\'b\\'', days=-2, place={{'lat': 1.5e3}}, "
        f"flags=[True, None]), {C}()]<|tool_call_end|>",
        "",
        "Look",
        [
            (W, {"city": "a 'b'", "days": -2, "place": {"lat": 1500.0}, "flags": [True, None]}),
            (C, {}),
        ],
    ),
    ("lfm2", f"<|tool_call_start|>{C}()", "", "", [(C, {})]),
    (
        "lfm2",
        f'<|tool_call_start|>[{{"name": "{W}", "arguments": {{"city": "x"}}}}]<|tool_call_end|>!',
        "",
        "!",
        [(W, {"city": "x"})],
    ),
    (
        "function_gemma",
        f"<start_function_call>call:{W}{{city:<escape>a,b:{{c}}<escape>}}<end_function_call>",
        "",
        "",
        [(W, {"city": "a,b:{c}"})],
    ),
    (
        "gemma3",
        f"Look:\n```tool_code\n{W}('Rom', days=2)\n{C}()\n```\nDone.",
        "",
        "Look:\nDone.",
        [(W, {"city": "Rom", "days": 2}), (C, {})],
    ),
    (
        "gemma3",
        f'```tool_code\n[{{"name": "{C}", "parameters": {{}}}}]\n```',
        "",
        "",
        [(C, {})],
    ),
    ("gemma3", f'{{"name": "{C}", "parameters": {{}}}}', "", "", [(C, {})]),
    (
        "json",
        f'\n[{{"name": "{W}", "arguments": {{"city": {HARD_JSON}}}}},'
        f'{{"name": "{C}", "parameters": {{}}}}]\n',
        "",
        "",
        [(W, {"city": HARD}), (C, {})],
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>Look.<|end|><|start|>assistant<|channel|>commentary to=functions."
        f'{W} <|constrain|>json<|message|>{{"city": {HARD_JSON}}}<|call|>',
        "Hm.",
        "Look.",
        [(W, {"city": HARD})],
    ),
    (
        "harmony",
        f"<|start|>assistant to=functions.{C}<|channel|>commentary json<|message|><|call|>",
        "",
        "",
        [(C, {})],
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
        "Hello.\n<|return|>",
        "Hm.",
        "Hello.\n",
        [],
    ),
]


@pytest.mark.parametrize(("name", "answer", "reasoning", "content", "called"), ANSWERS)
def test_an_answer_is_split_into_reasoning_content_and_calls(
    name: str, answer: str, reasoning: str, content: str, called: Calls
) -> None:
    events = parse(by_name(name), answer)
    assert calls(events) == called
    assert texts(events) == (reasoning, content)


NO_CALLS = [
    ("hermes", '<tool_call>\n{"name": "nobody", "arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "clock", "arguments": [1]}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "clock" "arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"arguments": {"a": 1}, "name": "clo'),
    ("hermes", "a <tool_call> is a tag, <tool_call>{} is none"),
    ("hermes", "a < b and <tool_cal"),
    ("hermes", '<tool_call>{"name": "clock", "arguments": "{\\"a\\": 1"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "clock", "arguments": "[1]"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "clock", "arguments": "{\\"a\\": \\"\\ud800\\"}"}</tool_call>'),
    ("hermes", '{"name": "clock", "arguments": {}}'),
    ("qwen_xml", "<tool_call>\n<function=nobody>\n</function>\n</tool_call>"),
    ("qwen_xml", "<tool_call>\n<function=clock>\nhello</function>\n</tool_call>"),
    ("qwen_xml", "<tool_call>\n<function=clock"),
    ("qwen_xml", "<function=" + "x" * 1000 + ">"),
    ("llama3", '<|python_tag|>brave_search.call(query="x")'),
    ("llama3", '{"name": "clock"}'),
    ("llama3", 'So: {"name": "clock", "parameters": {}}'),
    ("mistral", "[TOOL_CALLS]nobody[ARGS]{}"),
    ("mistral", "[TOOL_CALLS]clock[ARGS]5"),
    ("mistral", "[TOOL_CALLS][1, 2]"),
    ("gemma4", "<|tool_call>call:nobody{}<tool_call|>"),
    ("gemma4", "<|tool_call>clock{}<tool_call|>"),
    ("lfm2", "<|tool_call_start|>[nobody()]<|tool_call_end|>"),
    ("lfm2", "<|tool_call_start|>[clock(x())]<|tool_call_end|>"),
    ("lfm2", "<|tool_call_start|>import os<|tool_call_end|>"),
    ("lfm2", "<|tool_call_start|>[clock("),
    ("gemma3", "```tool_code\nnobody()\n```"),
    ("gemma3", "```tool_code\nclock(**x)\n```"),
    ("gemma3", "```tool_code\nclock(1)\n```"),
    ("gemma3", "```tool_code\nclock(a={1})\n```"),
    ("gemma3", "```tool_code\nclock(a=\n```"),
    ("gemma3", "```tool_code\n" + "(" * 5000 + "\n```"),
    ("gemma3", "```python\nprint(1)\n```"),
    ("json", '{"name": "clock"}'),
    ("json", '{"answer": 42}'),
    ("json", "[1, 2, 3]"),
    ("json", '{"name": "clock", "arguments": '),
]


@pytest.mark.parametrize(("name", "answer"), NO_CALLS)
def test_what_is_no_call_stays_text_to_the_letter(name: str, answer: str) -> None:
    assert parse(by_name(name), answer) == [Content(answer)]


def test_a_harmony_message_to_an_unknown_function_is_text() -> None:
    answer = "<|channel|>commentary to=functions.nobody <|constrain|>json<|message|>{}<|call|>"
    assert parse(by_name("harmony"), answer) == [Content("{}")]


@pytest.mark.parametrize("name", ["hermes", "qwen_xml", "llama3", "mistral", "gemma4", "json"])
def test_without_tools_calls_are_text(name: str) -> None:
    for family, answer, reasoning, _, called in ANSWERS:
        if family == name and called and not reasoning:
            assert parse(by_name(name), answer, tools=()) == [Content(answer)]


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        ('<tool_call>{"name": "clock", "arguments": {"a": "b', ""),
        ('<tool_call>{"name": "clock", "arguments": {"a": tru} and more', "} and more"),
        (
            '<tool_call>{"name": "clock", "arguments": {"a" 1}}</tool_call> more',
            "1}}</tool_call> more",
        ),
    ],
)
def test_a_call_that_breaks_after_it_began_keeps_what_was_given_out(
    answer: str, content: str
) -> None:
    events = parse(by_name("hermes"), answer)
    assert events[0] == CallBegin(0, "clock")
    assert isinstance(events[1], CallArguments)
    assert events[1].text.startswith('{"a"')
    assert texts(events) == ("", content)


def test_calls_behind_a_broken_one_are_read() -> None:
    good = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
    events = parse(by_name("hermes"), "<tool_call>{oops}</tool_call>" + good)
    assert calls(events) == [("clock", {})]
    assert texts(events) == ("", "<tool_call>{oops}</tool_call>")
    events = parse(by_name("hermes"), '<tool_call>{"name": "clock", "arguments": {,' + good)
    assert [event.call for event in events if isinstance(event, CallBegin)] == [0, 1]


@pytest.mark.parametrize(
    ("name", "before", "arguments"),
    [
        (
            "hermes",
            '<tool_call>\n{"name": "get_weather", "arguments": ',
            '{"city": "Rom", "days": 1',
        ),
        ("llama3", '{"name": "get_weather", "parameters": ', '{"city": "Rom", "days": 1'),
        ("mistral", "[TOOL_CALLS]get_weather[ARGS]", '{"city": "Rom", "days": 1'),
        (
            "harmony",
            "<|channel|>commentary to=functions.get_weather<|message|>",
            '{"city": "Rom", "days": 1',
        ),
        ("json", '[{"name": "get_weather", "arguments": ', '{"city": "Rom", "days": 1'),
    ],
)
def test_arguments_are_passed_on_as_they_come(name: str, before: str, arguments: str) -> None:
    parser = by_name(name).parser(TOOLS, in_reasoning=False)
    begun = [event for char in before for event in parser.push(char)]
    given = "".join(
        event.text
        for char in arguments
        for event in parser.push(char)
        if isinstance(event, CallArguments)
    )
    assert CallBegin(0, "get_weather") not in begun
    assert given == arguments[:-1], "only an unfinished number may wait"


def test_text_parameters_are_passed_on_as_they_come() -> None:
    parser = by_name("qwen_xml").parser(TOOLS, in_reasoning=False)
    head = "<tool_call>\n<function=get_weather>\n<parameter=city>\n"
    begun = [event for char in head for event in parser.push(char)]
    assert merged(begun) == [CallBegin(0, "get_weather"), CallArguments(0, '{"city": "')]
    assert parser.push('R"') == [CallArguments(0, 'R\\"')]
    assert parser.push("om\n") == [CallArguments(0, "om")]
    assert parser.push("</param") == []
    assert parser.push("s>") == [CallArguments(0, "\\n</params>")]


@pytest.mark.parametrize(
    ("style", "open_", "close"),
    [
        ("think", "<think>", "</think>"),
        ("mistral", "[THINK]", "[/THINK]"),
        ("gemma4", "<|channel>thought", "<channel|>"),
    ],
)
def test_reasoning_however_it_is_delimited(style: str, open_: str, close: str) -> None:
    markup = compose("json", style)
    assert texts(parse(markup, f"{open_}\nWhy\n\nso\n{close}\n\nYes.")) == ("Why\n\nso", "Yes.")
    assert texts(parse(markup, f"Why{close}Yes.", in_reasoning=True)) == ("Why", "Yes.")
    assert texts(parse(markup, f"{open_}Why{close}Yes.", in_reasoning=True)) == ("Why", "Yes.")
    assert texts(parse(markup, f"Why{close}Yes. {close}")) == ("", f"WhyYes. {close}")
    assert texts(parse(markup, f"{open_}Why, {close[:-1]}")) == (f"Why, {close[:-1]}", "")
    assert texts(parse(markup, f"{open_}{close}Yes. {open_} x {close}")) == (
        "",
        f"Yes. {open_} x {close}",
    )
    assert texts(parse(markup, "Just text. ")) == ("", "Just text. ")
    assert markup.in_reasoning(f"user\nhi\nassistant\n{open_}\n")
    assert not markup.in_reasoning(f"assistant\n{open_}\n\n{close}\n\n")
    assert not markup.in_reasoning("assistant\n")
    assert markup.in_reasoning(f"{open_}a{close}b\n{open_}\nBegun by")


CALL = '<tool_call>\n{"name": "clock", "arguments": {"a": 1}}\n</tool_call>'


def test_a_call_drafted_in_reasoning_is_a_thought() -> None:
    answer = f"<think>I could {CALL} or not.</think>\n{CALL}"
    events = parse(by_name("hermes"), answer)
    assert calls(events) == [("clock", {"a": 1})]
    assert texts(events) == (f"I could {CALL} or not.", "")
    for end in ("</think>", " so.", CALL[:-30], "<tool_call>{}</tool_call>"):
        events = parse(by_name("hermes"), f"Hm. {CALL}{end}", in_reasoning=True)
        assert calls(events) == []
        assert texts(events) == (f"Hm. {CALL}{end}".removesuffix("</think>"), "")


def test_calls_that_end_an_answer_whose_reasoning_was_not_closed_are_calls() -> None:
    for between in ("", "\n"):
        events = parse(by_name("hermes"), f"<think>Hm.\n{CALL}{between}{CALL}\n")
        assert calls(events) == [("clock", {"a": 1}), ("clock", {"a": 1})]
        assert texts(events) == ("Hm.", "")
    xml = "Hm.\n<tool_call>\n<function=clock>\n</function>\n</tool_call>"
    assert calls(parse(by_name("qwen_xml"), xml, in_reasoning=True)) == [("clock", {})]


def test_any_reasoning_style_goes_with_any_tool_style() -> None:
    markup = compose("llama3", "think")
    events = parse(markup, '<think>a</think>\n{"name": "clock", "parameters": {}}')
    assert texts(events) == ("a", "")
    assert calls(events) == [("clock", {})]
    events = parse(compose("hermes", "none"), "<think>a</think>")
    assert texts(events) == ("", "<think>a</think>")


def test_harmony_prompts_may_end_inside_analysis() -> None:
    markup = by_name("harmony")
    assert markup.in_reasoning("<|start|>assistant<|channel|>analysis<|message|>")
    assert not markup.in_reasoning("<|start|>assistant")
    answer = "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    assert texts(parse(markup, answer, in_reasoning=True)) == ("Hm.", "Yes.")
