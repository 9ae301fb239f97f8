"""Which markup a template shows, what the options override, and how thinking is switched."""

import pytest

from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.parsers.table import (
    by_name,
    compose,
    detect,
    names,
    reasoning_names,
    thinking_switch,
)

HERMES = "{{ '<tool_call>\\n{\"name\": \"' + call.name + '\"}\\n</tool_call>' }}"
QWEN3 = HERMES + "{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
QWEN_XML = "{{ '<tool_call>\\n<function=' + call.name + '>\\n<parameter=' + key + '>\\n' }}"
LLAMA = (
    "{{ '<|start_header_id|>' + role }}{% if builtin %}{{ '<|python_tag|>' }}{% endif %}"
    '{{ \'{"name": "\' + call.name + \'", "parameters": \' }}'
)
LLAMA_PROMPTED = "{{ '<|start_header_id|>' }}Give {name: ..., parameters: ...} as JSON."
MISTRAL_OLD = "{{ '[TOOL_CALLS] [{\"name\": \"' + call.name + '\"}]' }}"
MISTRAL_NEW = "{{ '[TOOL_CALLS]' + call.name + '[ARGS]' + arguments }}[THINK][/THINK]"
GEMMA4 = (
    "{{ '<|tool_call>call:' + name + '{' }}{% if enable_thinking %}{{ '<|think|>' }}{% endif %}"
    "{{ '<|channel>thought\\n<channel|>' }}"
)
FUNCTION_GEMMA = "{{ '<start_function_call>call:' }}{{ '<start_of_turn>' }}"
LFM2 = "{{ 'List of tools: <|tool_list_start|>[' + tools + ']<|tool_list_end|>' }}<|im_start|>"
GEMMA3 = "{{ '<start_of_turn>' + role }}"
HARMONY = (
    "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' }}Reasoning: {{ reasoning_effort }}"
)
GLM = "{{ '<tool_call>' + name + '\\n<arg_key>' + key + '</arg_key>' }}</think>"
CHATML = "{{ '<|im_start|>' + role }}"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (HERMES, "hermes"),
        (QWEN3, "hermes+think"),
        (QWEN_XML, "qwen_xml"),
        (QWEN_XML + "<think>", "qwen_xml+think"),
        (LLAMA, "llama3"),
        (LLAMA_PROMPTED, "llama3"),
        (MISTRAL_OLD, "mistral_array"),
        (MISTRAL_NEW, "mistral"),
        (GEMMA4, "gemma4"),
        (FUNCTION_GEMMA, "function_gemma"),
        (LFM2, "lfm2"),
        (GEMMA3, "gemma3"),
        (HARMONY, "harmony"),
        (GLM, "json+think"),
        (CHATML, "json"),
        ("", "json"),
    ],
)
def test_the_template_shows_the_markup(template: str, name: str) -> None:
    assert detect(template).name == name


def test_reasoning_markers_in_the_vocabulary_count_where_the_template_shows_none() -> None:
    assert detect(HERMES, {"<think>", "</think>"}).name == "hermes+think"
    assert detect(HERMES, {"<think>"}).reasoning is None
    assert detect(MISTRAL_NEW, {"<think>", "</think>"}).reasoning == ("[THINK]", "[/THINK]")


def test_either_style_is_overridden() -> None:
    assert detect(QWEN3, tools="llama3").name == "llama3+think"
    assert detect(QWEN3, reasoning="none").name == "hermes"
    assert detect(QWEN3, tools="json", reasoning="mistral").name == "json+mistral"
    assert detect(HARMONY, tools="json").reasoning is None
    assert detect(HARMONY, reasoning="none").name == "json"
    assert detect(CHATML, tools="harmony").name == "harmony"
    assert detect(CHATML, reasoning="harmony").name == "harmony"


@pytest.mark.parametrize("name", names())
def test_every_tool_style_has_a_markup_that_says_its_markers(name: str) -> None:
    markup: Markup = by_name(name)
    for marker in markup.reasoning or ():
        assert marker.startswith(markup.markers), "the token that it begins with is kept"
    assert markup.name.startswith(name) or name in ("mistral", "gemma4")


def test_every_reasoning_style_can_be_named() -> None:
    for name in reasoning_names():
        markup = compose("harmony" if name == "harmony" else "json", name)
        assert (markup.reasoning is None) == (name == "none")


@pytest.mark.parametrize("wrong", ["", "hermes3", "none"])
def test_an_unknown_tool_style_is_refused_with_the_names(wrong: str) -> None:
    for make in (by_name, lambda name: compose(name, "none"), lambda name: detect("", tools=name)):
        with pytest.raises(ValueError, match=r"hermes, qwen_xml, .*harmony") as refused:
            make(wrong)
        assert repr(wrong) in str(refused.value)


def test_an_unknown_reasoning_style_and_an_impossible_pair_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'thoughts'.*think, mistral, gemma4, harmony, none"):
        compose("hermes", "thoughts")
    with pytest.raises(ValueError, match="cannot be combined with the tool parser 'hermes'"):
        compose("hermes", "harmony")
    with pytest.raises(ValueError, match="cannot be combined"):
        detect(HARMONY, tools="harmony", reasoning="think")


def test_a_switch_with_a_flag() -> None:
    switch = thinking_switch(QWEN3)
    assert switch is not None
    assert switch.kwargs(enabled=False, effort=None) == {"enable_thinking": False}
    assert switch.kwargs(enabled=True, effort="high") == {"enable_thinking": True}
    assert switch.kwargs(enabled=None, effort="high") == {}
    other = thinking_switch("{% if thinking %}<think>{% endif %}")
    assert other is not None
    assert other.kwargs(enabled=True, effort=None) == {"thinking": True}


@pytest.mark.parametrize(
    ("enabled", "effort", "level"),
    [
        (None, "low", "low"),
        (None, "high", "high"),
        (None, "minimal", "low"),
        (None, "xhigh", "high"),
        (False, None, "low"),
        (False, "high", "low"),
    ],
)
def test_gpt_oss_knows_three_efforts(enabled: bool | None, effort: str, level: str) -> None:
    switch = thinking_switch(HARMONY)
    assert switch is not None
    assert switch.kwargs(enabled=enabled, effort=effort) == {"reasoning_effort": level}
    assert switch.kwargs(enabled=None, effort=None) == {}


def test_efforts_that_a_template_names_are_its_levels() -> None:
    switch = thinking_switch(
        "{% if reasoning_effort not in ['none', 'high'] %}{{ raise_exception('no') }}{% endif %}"
    )
    assert switch is not None
    assert switch.kwargs(enabled=False, effort=None) == {"reasoning_effort": "none"}
    assert switch.kwargs(enabled=None, effort="medium") == {"reasoning_effort": "high"}


def test_what_only_looks_like_a_switch_is_none() -> None:
    assert thinking_switch(CHATML) is None
    assert thinking_switch("{{ 'no thinking here' }} enable_thinking") is None
    assert thinking_switch("{% set thinking = false %}{{ thinking }}") is None


def test_a_template_with_tags_of_its_renderer_is_searched_as_text() -> None:
    switch = thinking_switch("{% generation %}{% if enable_thinking %}a{% endif %}{% endgen %}")
    assert switch is not None
    assert switch.flag == "enable_thinking"
