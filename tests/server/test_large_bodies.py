"""Large request bodies over HTTP, handled in other processes: the same answers as small ones."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import psutil
import pytest

from dflash_serve.server.app import create_app
from dflash_serve.server.bodies import ON_A_THREAD
from dflash_serve.server.context import ServerContext
from dflash_serve.server.handling import Find
from dflash_serve.server.worker import Job
from dflash_serve.server.workers import Workers
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, eventually, make_context, saying, serving

MODEL = "fake/model"
HI = [{"role": "user", "content": "hello"}]


class Watched(Workers):
    """Workers that count the bodies that came, and those that nobody waited for any more."""

    came = left = 0

    async def run(self, job: Job, find: Find) -> Any:
        self.came += 1
        try:
            return await super().run(job, find)
        except asyncio.CancelledError:
            self.left += 1
            raise


@pytest.fixture(scope="module")
def here(tokenizer: ChatTokenizer) -> ServerContext:
    engine = FakeEngine(saying(tokenizer, "hello world"), max_context=512)
    return make_context(engine, tokenizer)


@pytest.fixture
def engine(here: ServerContext, tokenizer: ChatTokenizer) -> FakeEngine:
    """The server's engine, as if it were new."""
    engine = here.client
    assert isinstance(engine, FakeEngine)
    engine.reset(saying(tokenizer, "hello world"))
    return engine


@pytest.fixture(scope="module")
def workers(here: ServerContext) -> Iterator[Watched]:
    with contextlib.closing(Watched(here.facts)) as workers:
        yield workers


@pytest.fixture(scope="module")
def url(here: ServerContext, workers: Watched) -> Iterator[str]:
    with serving(create_app(replace(here, workers=workers))) as url:
        yield url


def client(url: str) -> httpx.AsyncClient:
    headers = {"Content-Type": "application/json"}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=240)


def written(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL} | fields).encode()


def large(**fields: Any) -> bytes:
    """A small request in a body that is large by its spaces."""
    return written(**fields) + b" " * (2 * ON_A_THREAD)


@pytest.mark.parametrize(("size", "inside"), [(ON_A_THREAD, True), (ON_A_THREAD + 1, False)])
def test_only_small_bodies_are_handled_in_this_process(
    url: str, workers: Watched, size: int, inside: bool
) -> None:
    body = written(prompt="")
    body = body.replace(b'""', b'"' + b"x" * (size - len(body)) + b'"')
    assert len(body) == size
    before = workers.came
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{url}/tokenize", content=body, headers=headers, timeout=240)
    assert answer.json()["count"] > 0
    assert (workers.came == before) is inside


def test_large_bodies_beside_running_streams(
    url: str, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    engine.reset(saying(tokenizer, "hello world " * 40, pause=0.02))

    async def stream(http: httpx.AsyncClient) -> str:
        text = ""
        body = {"model": MODEL, "messages": HI, "stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
        return text

    async def refused(http: httpx.AsyncClient) -> tuple[int, str]:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "six " * 500_000}]}
        answer = await http.post("/v1/chat/completions", json=body)
        return answer.status_code, answer.json()["error"]["code"]

    async def main() -> tuple[list[str], list[tuple[int, str]]]:
        async with client(url) as http:
            texts = [asyncio.create_task(stream(http)) for _ in range(4)]
            refusals = await asyncio.gather(*(refused(http) for _ in range(3)))
            return await asyncio.gather(*texts), refusals

    texts, refusals = asyncio.run(main())
    assert set(texts) == {"hello world " * 40}
    assert refusals == [(400, "context_length_exceeded")] * 3


def shown(answer: httpx.Response) -> Any:
    """An answer without what is drawn anew for each request."""
    assert answer.is_success, answer.text
    drawn = {"id", "created", "created_at", "completed_at", "item_id"}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(part) for key, part in value.items() if key not in drawn}
        return [strip(part) for part in value] if isinstance(value, list) else value

    return strip(answer.json())


DOORS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI, "n": 2, "seed": 1, "logprobs": True},
    "/v1/completions": {"prompt": ["one", "two"], "echo": True, "seed": 1},
    "/v1/messages": {"messages": HI, "max_tokens": 5, "temperature": 0},
    "/v1/messages/count_tokens": {"messages": HI},
    "/v1/responses": {"input": "hello", "instructions": "be brief", "seed": 1},
    "/v1/responses/input_tokens": {"input": "hello"},
    "/tokenize": {"messages": HI},
    "/detokenize": {"tokens": [1, 2, 3]},
}


@pytest.mark.usefixtures("engine")
def test_every_door_answers_a_large_body_as_a_small_one(url: str, workers: Watched) -> None:
    async def main() -> None:
        async with client(url) as http:
            for path, fields in DOORS.items():
                small = shown(await http.post(path, content=written(**fields)))
                assert shown(await http.post(path, content=large(**fields))) == small, path

    before = workers.came
    asyncio.run(main())
    assert workers.came == before + len(DOORS)


def test_a_conversation_goes_on_over_large_bodies(
    url: str, engine: FakeEngine, tokenizer: ChatTokenizer
) -> None:
    async def main() -> None:
        async with client(url) as http:
            first = (await http.post("/v1/responses", content=large(input="one"))).json()
            more = large(input="two", previous_response_id=first["id"])
            second = (await http.post("/v1/responses", content=more)).json()
            assert second["previous_response_id"] == first["id"]
            third = written(input="three", previous_response_id=second["id"])
            assert (await http.post("/v1/responses", content=third)).is_success
            unknown = large(input="x", previous_response_id="resp_none")
            refusal = await http.post("/v1/responses", content=unknown)
            assert refusal.json()["error"]["code"] == "previous_response_not_found"

    asyncio.run(main())
    prompts = [tokenizer.decode(request.prompt) for request in engine.requests]
    assert [prompt.count("<|im_start|>user") for prompt in prompts] == [1, 2, 3]
    assert prompts[2].index("one") < prompts[2].index("two") < prompts[2].index("three")


def test_a_client_that_leaves_frees_the_worker_that_handles_its_body(
    url: str, workers: Watched
) -> None:
    long = written(prompt="hello there " * 600_000)  # many seconds

    async def main() -> None:
        async with client(url) as http:
            assert (await http.post("/tokenize", content=large(prompt="hi"))).is_success
            running, came = psutil.Process().children(), workers.came
            leaving = asyncio.create_task(http.post("/tokenize", content=long))
            await asyncio.to_thread(eventually, lambda: workers.came == came + 1)
            leaving.cancel()
            await asyncio.wait([leaving])
            await asyncio.to_thread(eventually, lambda: workers.left == 1)
            await asyncio.to_thread(eventually, lambda: not all(w.is_running() for w in running))
            assert (await http.post("/tokenize", content=large(prompt="hi"))).is_success

    asyncio.run(main())
    assert workers.left == 1
