"""The tokenizer of a target, and the one rule by which --thinking reaches its template."""

from pathlib import Path
from typing import Any

import pytest

from dflash_serve.adapters.loading import load_target
from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.tokenizer import read_tokenizer, template_arguments
from dflash_serve.training.run.job import mask_token_id
from tests.training.chat_target import PLAIN, THINKING, WORDS, write_chat_target
from tests.training.command import refused

FLAG = "{% if thinking %}a{% endif %}" + PLAIN
EFFORT = "{% if reasoning_effort == 'low' %}a{% elif reasoning_effort == 'high' %}b{% endif %}"
BOTH = EFFORT + THINKING
STRENGTH = "{{ reasoning_strength }}" + THINKING


@pytest.mark.parametrize(
    ("template", "thinking", "told"),
    [
        (THINKING, "off", {"enable_thinking": False}),
        (THINKING, "on", {"enable_thinking": True}),
        (THINKING, "default", {}),
        (FLAG, "off", {"thinking": False}),
        (FLAG, "on", {"thinking": True}),
        (EFFORT + PLAIN, "off", {"reasoning_effort": "low"}),
        (EFFORT + PLAIN, "high", {"reasoning_effort": "high"}),
        (BOTH, "off", {"enable_thinking": False, "reasoning_effort": "low"}),
        (BOTH, "low", {"enable_thinking": True, "reasoning_effort": "low"}),
        (STRENGTH, "max", {"enable_thinking": True, "reasoning_strength": "max"}),
        (PLAIN, "off", {}),
        (PLAIN, "default", {}),
    ],
)
def test_the_template_is_told_what_the_server_tells_it(
    template: str, thinking: str, told: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = read_tokenizer(write_chat_target(tmp_path, template))
    assert template_arguments(thinking, tokenizer) == told


@pytest.mark.parametrize(
    ("template", "thinking", "known"),
    [
        (PLAIN, "on", "only off, default"),
        (PLAIN, "high", "only off, default"),
        (THINKING, "high", "only on, off, default"),
        (EFFORT + PLAIN, "on", "only off, default, low, high"),
        (EFFORT + PLAIN, "medium", "only off, default, low, high"),
        (THINKING, "", "only on, off, default"),
    ],
)
def test_what_the_template_cannot_do_is_refused(
    template: str, thinking: str, known: str, tmp_path: Path
) -> None:
    tokenizer = read_tokenizer(write_chat_target(tmp_path, template))
    with pytest.raises(DataError, match=f"--thinking is '{thinking}', but .* knows {known}$"):
        template_arguments(thinking, tokenizer)


def test_a_mask_token_is_one_that_no_text_has(tmp_path: Path) -> None:
    assert mask_token_id(write_chat_target(tmp_path), None) == WORDS.index("<|mask|>")
    assert mask_token_id(tmp_path, 7) == 7


def test_a_broken_tokenizer_is_one_line(tmp_path: Path) -> None:
    target = write_chat_target(tmp_path / "target")
    tokenizer = target / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text()[:-40])
    answers, prompts = tmp_path / "answers.jsonl", tmp_path / "p.jsonl"
    answers.write_text('{"target": "x"}\n{"row": 0, "kind": "", "prompt": [9], "answer": [9, 1]}\n')
    prompts.write_text('{"prompt": "a"}\n')
    common = ("--target", target, "--out", tmp_path / "out")
    for words in (
        ("data", *common, "--prompts", prompts),
        ("run", *common, "--data", answers, "--layers", 1, "--target-layers", 0),
        ("run", *common, "--data", answers, "--layers", 1, "--target-layers", 0, "--mask-token", 2),
        ("plan", *common, "--data", answers, "--no-measure"),
    ):
        assert str(target) in refused(*words)
    load_target(target)  # nothing else is wrong with it
