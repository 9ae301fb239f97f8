"""The tokenizer over HTTP, the version, and HEAD."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.version import __version__
from tests.fakes import FakeEngine, Script, make_app, serving

HELLO = [{"role": "user", "content": "hello <|im_end|>"}]
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def http(tokenizer: ChatTokenizer) -> Iterator[httpx.Client]:
    app = make_app(FakeEngine(lambda request: Script()), tokenizer)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_a_prompt(http: httpx.Client, tokenizer: ChatTokenizer) -> None:
    answer = http.post("/tokenize", json={"model": "fake/model", "prompt": "hello world"}).json()
    tokens = list(tokenizer.encode_raw("hello world"))
    assert answer == {
        "count": len(tokens),
        "max_model_len": 512,
        "tokens": tokens,
        "token_strs": None,
    }


def test_names_of_tokens(http: httpx.Client, tokenizer: ChatTokenizer) -> None:
    asked = {"prompt": "hello é<|im_end|>", "return_token_strs": True}
    answer = http.post("/tokenize", json=asked).json()
    names = [tokenizer.backend.id_to_token(token) for token in answer["tokens"]]
    assert answer["token_strs"] == names
    assert names[-1] == "<|im_end|>"


def test_special_tokens_can_be_left_out(http: httpx.Client, tokenizer: ChatTokenizer) -> None:
    asked = {"prompt": "hello", "add_special_tokens": False}
    answer = http.post("/tokenize", json=asked).json()
    assert answer["tokens"] == list(tokenizer.encode_markup("hello"))


def test_a_chat(http: httpx.Client, tokenizer: ChatTokenizer) -> None:
    whole = http.post("/tokenize", json={"messages": HELLO}).json()["tokens"]
    assert whole == list(tokenizer.encode_chat(HELLO, {}))
    plain = {"messages": HELLO, "add_generation_prompt": False}
    assert http.post("/tokenize", json=plain).json()["tokens"] == list(
        tokenizer.encode_chat(HELLO, {}, generation_prompt=False)
    )
    styled = {"messages": HELLO, "chat_template_kwargs": {"style": "terse"}}
    assert http.post("/tokenize", json=styled).json()["tokens"] == list(
        tokenizer.encode_chat(HELLO, {"style": "terse"})
    )
    with_tools = {"messages": HELLO, "tools": [LOOK]}
    assert http.post("/tokenize", json=with_tools).json()["count"] > len(whole)


@pytest.mark.parametrize("text", ["hello world", "é\U0001f600\n", ""])
def test_there_and_back(http: httpx.Client, text: str) -> None:
    tokens = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": text}


def test_control_tokens_have_names(http: httpx.Client, tokenizer: ChatTokenizer) -> None:
    tokens = list(tokenizer.encode_chat([{"role": "user", "content": "hi"}], {}))
    text = http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("/tokenize", {}, 400, "prompt"),
    ("/tokenize", {"prompt": "x", "messages": HELLO}, 400, "prompt"),
    ("/tokenize", {"prompt": 5}, 400, "prompt"),
    ("/tokenize", {"messages": []}, 400, "messages"),
    ("/tokenize", {"messages": HELLO, "add_special_tokens": True}, 400, "add_special_tokens"),
    ("/tokenize", {"prompt": "x", "model": "other"}, 404, "model"),
    ("/tokenize", {"prompt": "x", "chat_template": "{{ x }}"}, 400, "chat_template"),
    ("/detokenize", {}, 400, "tokens"),
    ("/detokenize", {"tokens": [1, 512]}, 400, "tokens.1"),
    ("/detokenize", {"tokens": [500]}, 400, "tokens.0"),
    ("/detokenize", {"tokens": [-1]}, 400, "tokens.0"),
    ("/detokenize", {"tokens": [2**40]}, 400, "tokens.0"),
    ("/detokenize", {"tokens": [1], "model": "other"}, 404, "model"),
]


@pytest.mark.parametrize(("path", "asked", "status", "param"), REFUSED)
def test_bad_requests_are_refused(
    http: httpx.Client, path: str, asked: dict[str, Any], status: int, param: str
) -> None:
    answer = http.post(path, json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_the_version(http: httpx.Client) -> None:
    assert http.get("/version").json() == {"version": __version__}


@pytest.mark.parametrize("path", ["/version", "/health", "/v1/models", "/v1/models/fake/model"])
def test_head_wherever_there_is_get(http: httpx.Client, path: str) -> None:
    answer = http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == http.get(path).headers["content-length"]
