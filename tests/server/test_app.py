"""Models, health, the API key and CORS."""

import httpx
import pytest
from openai import AuthenticationError, OpenAI
from openai.types import Model

from dflash_serve.compose.drafting import DrafterCard, DrafterSwitch
from dflash_serve.engine.client import EngineState
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, make_app, refuse, saying, serving

URL = "/v1/chat/completions"
GOOD = {"model": "fake/model", "messages": [{"role": "user", "content": "hi"}]}
ORIGIN = "http://ui.example"


@pytest.fixture
def engine(tokenizer: ChatTokenizer) -> FakeEngine:
    return FakeEngine(saying(tokenizer, "hello"))


def test_models_tell_what_is_served(engine: FakeEngine, tokenizer: ChatTokenizer) -> None:
    drafting = DrafterSwitch(DrafterCard("fake/drafter", 8), refuse)
    with serving(make_app(engine, tokenizer, drafting=drafting)) as url:
        listed = httpx.get(url + "/v1/models", timeout=60).json()
        one = httpx.get(url + "/v1/models/fake/model", timeout=60).json()
        with OpenAI(base_url=url + "/v1", api_key="none") as client:
            assert [model.id for model in client.models.list()] == ["fake/model"]
            assert client.models.retrieve("fake/model").created == 1
    assert listed == {"object": "list", "data": [one]}
    Model.model_validate(one)
    facts = {"max_context": 512, "drafter": "fake/drafter", "block_size": 8}
    assert one.items() >= facts.items()
    assert one["speculation"] == "auto"


@pytest.mark.parametrize("state", EngineState)
def test_health_follows_the_engine(
    engine: FakeEngine, tokenizer: ChatTokenizer, state: EngineState
) -> None:
    engine.state = state
    with serving(make_app(engine, tokenizer)) as url:
        answer = httpx.get(url + "/health", timeout=60)
        head = httpx.head(url + "/health", timeout=60)
    assert answer.status_code == (200 if state is EngineState.READY else 503)
    assert (head.status_code, head.content) == (answer.status_code, b"")
    assert answer.json()["status"] == state.value
    runs = state in (EngineState.READY, EngineState.DRAINING)
    assert answer.json().get("slots") == (8 if runs else None)


@pytest.mark.parametrize("state", [EngineState.DRAINING, EngineState.STOPPED])
def test_a_server_that_stops_refuses_in_the_clients_own_words(
    engine: FakeEngine, tokenizer: ChatTokenizer, state: EngineState
) -> None:
    engine.state = state
    with serving(make_app(engine, tokenizer)) as url:
        chat = httpx.post(url + URL, json=GOOD, timeout=60)
        message = httpx.post(url + "/v1/messages", json=GOOD, timeout=60)
    for answer in (chat, message):
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "shutting down" in answer.json()["error"]["message"]
    assert chat.json()["error"]["code"] == "engine_unavailable"
    assert message.json()["type"] == "error"


def test_the_api_key(engine: FakeEngine, tokenizer: ChatTokenizer) -> None:
    app = make_app(engine, tokenizer, api_key="s\u00e9cret", max_body_bytes=2000)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        good = {"Authorization": "Bearer s\u00e9cret".encode()}
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models", headers=good).status_code == 200
        assert client.post(URL, json=GOOD, headers=good).status_code == 200
        for value in (b"bearer ", b"BEARER "):
            odd = {"Authorization": value + "s\u00e9cret".encode()}
            assert client.get("/v1/models", headers=odd).status_code == 200
        bare = {"x-api-key": "s\u00e9cret".encode()}
        assert client.get("/v1/models", headers=bare).status_code == 200
        assert client.get("/v1/models", headers={"x-api-key": "wrong"}).status_code == 401
        for value in (None, "", "s\u00e9cret", "Bearer", "Bearer wrong", "Basic s\u00e9cret"):
            headers = {} if value is None else {"Authorization": value.encode()}
            for answer in (
                client.get("/v1/models", headers=headers),
                client.get("/nowhere", headers=headers),
                client.post(URL, json=GOOD, headers=headers),
                client.post(URL, content=b"x" * 100_000, headers=headers),
            ):
                assert answer.status_code == 401
                assert answer.json()["error"]["code"] == "invalid_api_key"
                assert answer.json()["error"]["message"].endswith(".")
        with (
            OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0) as wrong,
            pytest.raises(AuthenticationError),
        ):
            wrong.models.list()
    assert len(engine.requests) == 1


def test_cors_is_off_unless_asked_for(engine: FakeEngine, tokenizer: ChatTokenizer) -> None:
    with serving(make_app(engine, tokenizer)) as url:
        answer = httpx.get(url + "/v1/models", headers={"Origin": ORIGIN}, timeout=60)
        assert "access-control-allow-origin" not in answer.headers


def test_cors_for_one_origin(engine: FakeEngine, tokenizer: ChatTokenizer) -> None:
    app = make_app(engine, tokenizer, cors_origin=(ORIGIN,), api_key="k")
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    with serving(app) as url:
        preflight = httpx.options(url + URL, headers=asked, timeout=60)
        refused = httpx.post(url + URL, json=GOOD, headers={"Origin": ORIGIN}, timeout=60)
        other = httpx.get(url + "/health", headers={"Origin": "http://evil.example"}, timeout=60)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in other.headers
