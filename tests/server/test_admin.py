"""/admin/drafter: who may ask, what is answered, and where the new name shows."""

import asyncio
import threading
from collections.abc import Iterator

import httpx
import pytest

from dflash_serve.compose.drafting import DrafterCard, DrafterRefused, DrafterSwitch
from dflash_serve.engine.errors import EngineUnavailable
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, eventually, make_app, saying, serving

KEY = {"Authorization": "Bearer secret"}
OLD = DrafterCard("old", 8, "aaaa")


class Loader:
    """Loads any drafter but those it refuses; ``gate`` holds it up."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[str] = []

    async def change(self, name: str) -> DrafterCard:
        self.asked.append(name)
        while not self.gate.is_set():
            await asyncio.sleep(0.001)
        if name == "wrong":
            raise DrafterRefused("drafter hidden_size is 32, target hidden_size is 64")
        if name == "early":
            raise EngineUnavailable("the engine is loading")
        return DrafterCard(None if name == "none" else name, 1 if name == "none" else 4, "bbbb")


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def client(loader: Loader, tokenizer: ChatTokenizer) -> Iterator[httpx.Client]:
    engine = FakeEngine(saying(tokenizer, "hello"))
    switch = DrafterSwitch(OLD, loader.change)
    app = make_app(engine, tokenizer, drafting=switch, admin_key="secret")
    with serving(app) as url, httpx.Client(base_url=url, headers=KEY, timeout=60) as client:
        yield client


def swap(client: httpx.Client, name: object) -> httpx.Response:
    return client.post("/admin/drafter", json={"drafter": name})


def test_without_a_key_there_is_no_admin(loader: Loader, tokenizer: ChatTokenizer) -> None:
    engine = FakeEngine(saying(tokenizer, "hello"))
    app = make_app(engine, tokenizer, drafting=DrafterSwitch(OLD, loader.change))
    with serving(app) as url, httpx.Client(base_url=url, headers=KEY, timeout=60) as client:
        for answer in (client.get("/admin/drafter"), swap(client, "new")):
            assert answer.status_code == 403
            assert answer.json()["error"]["code"] == "admin_disabled"
            assert "--api-key" in answer.json()["error"]["message"]
    assert loader.asked == []


def test_a_wrong_key_is_refused(client: httpx.Client, loader: Loader) -> None:
    client.headers = httpx.Headers({"Authorization": "Bearer guess"})
    assert swap(client, "new").status_code == 401
    assert client.get("/admin/drafter").status_code == 401
    assert loader.asked == []


def test_the_new_name_shows_everywhere(client: httpx.Client) -> None:
    ask = {
        "model": "fake/model",
        "messages": [{"role": "user", "content": "hi"}],
        "return_meta_info": True,
    }
    seen = []
    for name in ("old", "new", None):
        if name != "old":
            swapped = swap(client, name or "none")
            assert swapped.status_code == 200
            assert swapped.json() == client.get("/admin/drafter").json()
        (model,) = client.get("/v1/models").json()["data"]
        meta = client.post("/v1/chat/completions", json=ask).json()["meta_info"]
        health = client.get("/health").json()
        shown = [x["drafter"] for x in (model, meta, health, client.get("/admin/drafter").json())]
        assert shown == [name] * 4
        seen.append((model["block_size"], model["speculation"]))
    assert seen == [(8, "auto"), (4, "auto"), (1, "off")]


def test_a_streamed_answer_names_the_drafter_too(client: httpx.Client) -> None:
    swap(client, "new")
    ask = {
        "model": "fake/model",
        "messages": [{"role": "user", "content": "hi"}],
        "return_meta_info": True,
        "stream": True,
    }
    assert '"drafter":"new"' in client.post("/v1/chat/completions", json=ask).text


@pytest.mark.parametrize(
    ("name", "status", "code", "text"),
    [
        ("wrong", 400, "drafter_refused", "hidden_size is 32"),
        ("early", 503, "engine_unavailable", "loading"),
        ("", 400, "invalid_value", "drafter"),
        (7, 400, "invalid_value", "drafter"),
        (None, 400, "missing_required_parameter", "drafter"),
        ("x" * 5000, 400, "invalid_value", "drafter"),
    ],
)
def test_a_refused_swap_leaves_the_old_one(
    client: httpx.Client, name: object, status: int, code: str, text: str
) -> None:
    answer = swap(client, name)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert text in error["message"]
    assert client.get("/admin/drafter").json()["drafter"] == "old"


def test_one_swap_at_a_time(client: httpx.Client, loader: Loader) -> None:
    loader.gate.clear()
    first = threading.Thread(target=swap, args=(client, "slow"))
    first.start()
    eventually(lambda: loader.asked)
    answer = swap(client, "other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "swap_running")
    assert client.get("/admin/drafter").json()["drafter"] == "old"
    loader.gate.set()
    first.join()
    assert client.get("/admin/drafter").json()["drafter"] == "slow"
    assert swap(client, "other").json()["drafter"] == "other"
