"""What clients are told of the model, and HEAD where there is GET."""

import httpx
import pytest

from dflash_serve.engine.errors import EngineUnavailable
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, make_app, saying, serving


class Loading(FakeEngine):
    """Does not know its context yet."""

    @property  # type: ignore[override]
    def max_context(self) -> int:
        raise EngineUnavailable("the engine is loading")

    @max_context.setter
    def max_context(self, value: int) -> None: ...


def test_the_context_is_the_engines(tokenizer: ChatTokenizer) -> None:
    """The engine holds less than the model's card says under --memory-limit."""
    engine = FakeEngine(saying(tokenizer, "hello"), max_context=100)
    with serving(make_app(engine, tokenizer)) as url:
        one = httpx.get(url + "/v1/models/fake/model", timeout=60).json()
    assert (one["max_context"], one["max_model_len"]) == (100, 100)


def test_while_loading_the_context_is_the_models(tokenizer: ChatTokenizer) -> None:
    engine = Loading(saying(tokenizer, "hello"))
    with serving(make_app(engine, tokenizer)) as url:
        [one] = httpx.get(url + "/v1/models", timeout=60).json()["data"]
        asked = {"model": "fake/model", "messages": [{"role": "user", "content": "hi"}]}
        refused = httpx.post(url + "/v1/chat/completions", json=asked, timeout=60)
    assert one["max_model_len"] == 512
    assert refused.status_code == 503


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake/model", "/health"])
def test_head_is_get_without_a_body(tokenizer: ChatTokenizer, path: str) -> None:
    engine = FakeEngine(saying(tokenizer, "hello"))
    with serving(make_app(engine, tokenizer)) as url, httpx.Client(base_url=url) as client:
        head, get = client.head(path), client.get(path)
        assert client.head("/v1/chat/completions").status_code == 405
        assert client.head("/nowhere").status_code == 404
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(get.content))
