"""The same request gives the same answer in Python and over HTTP."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dflash_serve import LLM
from tests.e2e.server import ServerProcess
from tests.llm.chats import HELLO, POINT_FORMAT, TOOL

NAMED = {"type": "function", "function": {"name": "move_to"}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = ServerProcess(tmp_path_factory.mktemp("demo") / "log", "--port", "0")
    yield process.ready()
    process.stop()


def post(url: str, path: str, **body: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{url}/v1/{path}", json={"model": "dflash-demo", **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    choices: list[dict[str, Any]] = answer.json()["choices"]
    return choices


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0, "max_tokens": 32},
        {"temperature": 0.9, "top_p": 0.9, "seed": 11, "n": 2, "max_tokens": 24},
        {"temperature": 0, "max_tokens": 24, "presence_penalty": 1.0, "min_tokens": 5},
        {"temperature": 0, "max_tokens": 120, "response_format": POINT_FORMAT},
        {"seed": 3},
    ],
)
def test_chats(llm: LLM, url: str, options: dict[str, Any]) -> None:
    wire = post(url, "chat/completions", messages=HELLO, **options)
    own = llm.chat(HELLO, **options).choices
    assert [(each.text, each.finish_reason) for each in own] == [
        (each["message"]["content"], each["finish_reason"]) for each in wire
    ]


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_tool_calls(llm: LLM, url: str, choice: Any) -> None:
    options = {"temperature": 0, "max_tokens": 200, "tools": [TOOL], "tool_choice": choice}
    (wire,) = post(url, "chat/completions", messages=HELLO, **options)
    (own,) = llm.chat(HELLO, **options).choices
    assert own.finish_reason == wire["finish_reason"]
    assert [(call.name, call.arguments) for call in own.tool_calls] == [
        (call["function"]["name"], call["function"]["arguments"])
        for call in wire["message"]["tool_calls"]
    ]


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0}, {"temperature": 1, "seed": 7, "n": 2, "max_tokens": 8}, {"seed": 1}],
)
def test_several_raw_prompts(llm: LLM, url: str, options: dict[str, Any]) -> None:
    prompts = ["Hello", "Once upon", "def "]
    wire = post(url, "completions", prompt=prompts, **options)
    own = [choice for answer in llm.generate(prompts, **options) for choice in answer.choices]
    assert [(each.text, each.finish_reason) for each in own] == [
        (each["text"], each["finish_reason"]) for each in wire
    ]
