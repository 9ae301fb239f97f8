"""A chat template as Gemma 4 has it: reasoning in a channel, calls between control tokens."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.parsers.table import detect, thinking_switch
from dflash_serve.text.stream import Detokenizer
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.text.parsers.answers import calls, parse, texts

TEMPLATE = (
    "{%- set enable_thinking = enable_thinking | default(false) -%}"
    "{%- if enable_thinking -%}{{ '<|turn>system\n<|think|>\n<turn|>\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|turn>' + message.role + '\n' + message.content.split('<channel|>')[-1] }}"
    "{%- for call in message.tool_calls or [] -%}"
    "{{ '<|tool_call>call:' + call.function.name + '{}<tool_call|><|tool_response>' }}"
    "{%- endfor -%}"
    "{{ '<turn|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|turn>model\n' }}"
    "{%- if not enable_thinking -%}{{ '<|channel>thought\n<channel|>' }}{%- endif -%}"
    "{%- endif -%}"
)
CONTROL = [
    *("<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>"),
    *("<|tool_call>", "<tool_call|>", "<|tool_response>", '<|"|>'),
]
ANSWER = "<|channel>thought\nWhy?\n<channel|>Look.<|tool_call>call:clock{}<tool_call|><turn|>"


@pytest.fixture(scope="module")
def gemma(tokenizer_dir: Path) -> ChatTokenizer:
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_dir / "tokenizer.json"))
    fast.backend_tokenizer.add_special_tokens(CONTROL)
    fast.chat_template = TEMPLATE
    return ChatTokenizer(fast)


@pytest.fixture(scope="module")
def markup(gemma: ChatTokenizer) -> Markup:
    return detect(gemma.template, gemma.added_tokens)


def test_the_markup_and_the_switch_are_found(markup: Markup) -> None:
    assert markup.name == "gemma4"
    assert markup.reasoning == ("<|channel>thought", "<channel|>")
    switch = thinking_switch(TEMPLATE)
    assert switch is not None
    assert switch.kwargs(enabled=True, effort=None) == {"enable_thinking": True}
    assert detect("", CONTROL).reasoning == markup.reasoning


def test_reasoning_and_calls_are_read_from_tokens(gemma: ChatTokenizer, markup: Markup) -> None:
    """The marker is a control token and a word: the token must not get lost on the way."""
    kept = gemma.token_text.ids(markup.markers)
    detokenizer = Detokenizer(gemma.token_text, kept)
    pieces = [detokenizer.push(token) for token in gemma.encode_markup(ANSWER)]
    events = parse(markup, [*pieces, detokenizer.flush()])
    assert texts(events) == ("Why?", "Look.")
    assert calls(events) == [("clock", {})]


@pytest.mark.parametrize(
    ("thinks", "after", "inside"),
    [(False, "", False), (True, "", False), (True, "<|channel>thought\n", True)],
)
def test_whether_a_prompt_ends_inside_reasoning(
    gemma: ChatTokenizer, markup: Markup, thinks: bool, after: str, inside: bool
) -> None:
    """A template opens the channel itself, for an answer that goes on behind a tool's result."""
    messages = [{"role": "user", "content": "hi"}]
    prompt = gemma.encode_chat(messages, {"enable_thinking": thinks})
    last = gemma.last_turn([*prompt, *gemma.encode_markup(after)], markup.markers)
    assert last.startswith("model\n")
    assert markup.in_reasoning(last) == inside
