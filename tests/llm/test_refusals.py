"""What cannot be done is one exception with one line, which names what is at fault."""

import json
from pathlib import Path
from typing import Any

import pytest

from dflash_serve import LLM, LLMError
from dflash_serve.compose.directories import DEMO
from dflash_serve.compose.options import EngineOptions
from dflash_serve.llm import ChatOptions, EngineKeywords, GenerateOptions
from dflash_serve.server.protocol.chat import ChatRequest
from dflash_serve.server.protocol.completions import CompletionRequest
from tests.llm.chats import HELLO, POINT_FORMAT, TOOL

OF_HTTP = {
    "model", "stream", "stream_options", "return_meta_info", "metadata", "prompt_cache_key",
    "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user",
    "skip_special_tokens",
}  # fmt: skip
"""Fields that say nothing of the answer, or that only the transport needs."""
OF_COMPLETIONS = {"prompt", "best_of", "add_special_tokens", "suffix"}
OF_CHATS = {
    "messages", "max_completion_tokens", "thinking_token_budget", "prediction", "verbosity",
    "add_generation_prompt", "audio", "continue_final_message", "echo", "function_call",
    "functions", "modalities", "web_search_options",
}  # fmt: skip
"""The prompt, second names of options, and what the server knows but does not support."""


BLOCK = str(json.loads((DEMO / "drafter" / "config.json").read_text())["block_size"])
CONTEXT = str(json.loads((DEMO / "target" / "config.json").read_text())["max_position_embeddings"])


def check(error: LLMError, words: tuple[str, ...]) -> None:
    text = str(error)
    assert "\n" not in text
    assert all(word in text for word in words), text
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 3}, ("temperature", "2", "3")),
        ({"top_p": -1}, ("top_p",)),
        ({"max_tokens": 0}, ("max_tokens",)),
        ({"max_tokens": "8"}, ("max_tokens",)),
        ({"n": 1000}, ("'n'", "128")),
        ({"seed": 2**70}, ("seed",)),
        ({"stop": [""]}, ("stop",)),
        ({"logit_bias": {999_999: 1.0}}, ("logit_bias", "999999")),
        ({"logit_bias": {"x": 1.0}}, ("logit_bias",)),
        ({"temperature": float("nan")}, ("NaN",)),
        ({"regex": "["}, ("regex",)),
        ({"regex": "a", "choice": ["b"]}, ("regex", "choice")),
        ({"response_format": {"type": "json"}}, ("response_format.type",)),
        ({"stop": object()}, ("JSON",)),
        ({"tempreature": 1}, ("tempreature", "temperature")),
        ({"stream": True}, ("no option stream",)),
        ({"model": "x"}, ("no option model",)),
    ],
)
def test_an_option_of_a_request(llm: LLM, options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(LLMError) as caught:
        llm.generate("Hello", **options)
    check(caught.value, words)
    with pytest.raises(LLMError) as caught:
        llm.stream("Hello", **options).__next__()
    check(caught.value, words)


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        ([], {}, ()),
        ("Hello", {}, ("messages", '"Hello"')),
        ([{"role": "wizard", "content": "x"}], {}, ("messages.0.role", "wizard")),
        ([{"role": "user"}], {}, ("messages.0.content",)),
        ([{"role": "tool", "content": "x", "tool_call_id": "1"}], {}, ("tool_call_id",)),
        (HELLO, {"tool_choice": "required"}, ("tool_choice", "no tools")),
        (HELLO, {"tools": [TOOL, TOOL]}, ("another tool",)),
        (
            HELLO,
            {"tools": [TOOL], "tool_choice": "required", "response_format": POINT_FORMAT},
            ("tool",),
        ),
        (HELLO, {"top_logprobs": 2}, ("top_logprobs",)),
        (HELLO, {"echo": True}, ("no option echo",)),
    ],
)
def test_a_conversation(
    llm: LLM, messages: Any, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    if messages == []:
        assert llm.chat(messages) == []
        return
    with pytest.raises(LLMError) as caught:
        llm.chat(messages, **options)
    check(caught.value, words)


@pytest.mark.parametrize("prompt", ["", [1.5], [-1], [10**6], None, {"a": 1}, [[]]])
def test_a_prompt(llm: LLM, prompt: Any) -> None:
    with pytest.raises(LLMError) as caught:
        llm.generate(prompt)
    check(caught.value, ("prompt",))


def test_the_field_is_named_apart_from_the_message(llm: LLM) -> None:
    with pytest.raises(LLMError) as caught:
        llm.generate("Hello", temperature=3)
    assert caught.value.param == "temperature"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "./nowhere"}, ("./nowhere",)),
        ({"drafter": "./nowhere"}, ("./nowhere",)),
        ({"drafter": None}, ("drafter is None",)),
        ({"block_size": 999}, ("block_size is 999", BLOCK)),
        ({"block_size": 2.5}, ("block_size is 2.5",)),
        ({"max_context": 10**6}, ("max_context is 1000000", CONTEXT)),
        ({"max_batch": 0}, ("max_batch is 0", "1024")),
        ({"max_batch": True}, ("max_batch is True",)),
        ({"memory_limit": "8XB"}, ("memory_limit is '8XB'", "8GB")),
        ({"speculation": "some"}, ("speculation is 'some'", "always")),
        ({"tool_parser": "x"}, ("tool_parser", "'x'", "hermes")),
        ({"max_bacth": 3}, ("no option max_bacth", "max_batch")),
        ({"port": 8000}, ("no option port",)),
    ],
)
def test_an_option_of_the_engine(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(LLMError) as caught:
        LLM(**options)
    check(caught.value, words)
    assert "--" not in str(caught.value)


def test_a_target_without_a_published_drafter(tmp_path: Path) -> None:
    with pytest.raises(LLMError, match="give drafter"):
        LLM(tmp_path)


def test_every_option_of_the_command_line_s_engine_is_one_here() -> None:
    names = set(EngineOptions.__dataclass_fields__)
    assert names == {"target", "drafter", *EngineKeywords.__annotations__}


def test_every_option_over_http_is_one_here() -> None:
    completions = set(CompletionRequest.model_fields) - OF_HTTP - OF_COMPLETIONS
    assert set(GenerateOptions.__annotations__) == completions
    assert set(ChatOptions.__annotations__) == set(ChatRequest.model_fields) - OF_HTTP - OF_CHATS
