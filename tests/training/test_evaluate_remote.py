"""dflash-train eval on servers: a real one of ours, one that tells nothing, and broken ones."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import Result

from tests.e2e.copying import write_copying_pair
from tests.e2e.server import PairPaths, ServerProcess
from tests.fakes import serving
from tests.training.command import call

Body = dict[str, Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two conversations of two turns."""
    directory = tmp_path / "data"
    directory.mkdir()
    rows = [{"prompt": [f"hello {n}", "and again"], "category": "x"} for n in range(2)]
    (directory / "mt-bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def run(out: Path, *arguments: object) -> Result:
    options = ["eval", "--max-new", 24, "--out", out, *arguments]
    return call(*options)


def results(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "results.json").read_text())
    return document


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> PairPaths:
    return write_copying_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def server(pair: PairPaths, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = ServerProcess(
        tmp_path_factory.mktemp("log") / "log",
        *pair.options(),
        "--port",
        "0",
        "--speculation",
        "always",
    )
    yield process.ready()
    process.stop()


def test_our_own_server_gives_the_figures_of_a_local_run(
    server: str, pair: PairPaths, data: Path, tmp_path: Path
) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    both = ("--data-dir", data)
    assert run(local, "--target", pair.target, "--drafter", pair.drafter, *both).exit_code == 0
    # the same server stands for the plain one: its text is what plain decoding gives
    done = run(remote, "--url", server, "--plain-url", server, "--concurrency", 2, *both)
    assert done.exit_code == 0, done.output
    ours, theirs = (results(one)["results"]["total"] for one in (local, remote))
    for name in ("tokens_per_round", "tokens_per_round_pooled", "rounds", "accepted_per_proposed"):
        assert theirs["drafting"][name] == pytest.approx(ours["drafting"][name]), name
    assert theirs["speculative"]["tokens"] == ours["speculative"]["tokens"]
    assert (theirs["responses"], theirs["compared"], theirs["differing"]) == (4, 4, 0)
    assert theirs["drafting"]["histogram"] is None  # a server tells no single rounds
    assert theirs["speedup_decode"] > 0
    assert theirs["speedup_end_to_end"] > 0
    texts = [
        {
            (row["row"], row["turn"]): row["text"]
            for row in map(json.loads, (one / "responses.jsonl").read_text().splitlines()[1:])
        }
        for one in (local, remote)
    ]
    assert texts[0] == texts[1]


class Rival:
    """An OpenAI-compatible server that answers by ``reply`` and keeps what it was asked."""

    def __init__(self, reply: Callable[[Body], Awaitable[JSONResponse]]) -> None:
        self.asked: list[Body] = []
        self._reply = reply
        self.app: Any = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> JSONResponse:
        return JSONResponse({"data": [{"id": "rival"}]})

    async def _chat(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.asked.append(body)
        return await self._reply(body)

    @property
    def measured(self) -> list[Body]:
        """Without the warm-up."""
        return [body for body in self.asked if body["max_tokens"] == 24]


def completion(text: str, tokens: int = 5, **more: Any) -> JSONResponse:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 1, "completion_tokens": tokens}
    return JSONResponse({"choices": [choice], "usage": usage, **more})


async def echo(body: Body) -> JSONResponse:
    return completion(f"<{body['messages'][-1]['content']}>")


def test_without_meta_info_tokens_per_round_are_unknown(data: Path, tmp_path: Path) -> None:
    rival = Rival(echo)
    with serving(rival.app) as url:
        done = run(tmp_path / "out", "--url", url, "--data-dir", data)
    assert done.exit_code == 0, done.output
    document = results(tmp_path / "out")
    total = document["results"]["total"]
    assert set(total["drafting"].values()) == {None}
    assert total["speedup_decode"] is None
    assert total["speculative"]["tokens"] == 20
    assert document["settings"]["model"] == "rival"
    # replies are fed back, and only what is asked for is sent
    second = next(body for body in rival.measured if len(body["messages"]) == 3)
    assert second["messages"][1] == {
        "role": "assistant",
        "content": f"<{second['messages'][0]['content']}>",
    }
    assert second == {
        "model": "rival",
        "messages": second["messages"],
        "max_tokens": 24,
        "temperature": 0.0,
        "chat_template_kwargs": {"enable_thinking": False},
        "return_meta_info": True,
    }


def test_another_text_of_the_plain_server_is_counted(data: Path, tmp_path: Path) -> None:
    async def other(body: Body) -> JSONResponse:
        text = body["messages"][-1]["content"]
        return await echo(body) if text == "hello 1" else completion("something else", 5)

    plain = Rival(other)
    with serving(Rival(echo).app) as url, serving(plain.app) as plain_url:
        done = run(tmp_path / "out", "--url", url, "--plain-url", plain_url, "--data-dir", data)
    assert done.exit_code == 0, done.output
    total = results(tmp_path / "out")["results"]["total"]
    assert (total["compared"], total["differing"]) == (4, 3)
    assert total["speedup_end_to_end"] > 0
    assert total["speedup_decode"] is None  # neither server told its decoding time
    # the plain server got the first server's replies as history
    replies = [b["messages"][1]["content"] for b in plain.measured if len(b["messages"]) == 3]
    assert sorted(replies) == ["<hello 0>", "<hello 1>"]


def test_both_servers_take_turns(tmp_path: Path) -> None:
    """Of ten conversations the plain server is asked some before the other one has had all."""
    order: list[str] = []

    def noting(name: str) -> Callable[[Body], Awaitable[JSONResponse]]:
        async def reply(body: Body) -> JSONResponse:
            order.append(name)
            return await echo(body)

        return reply

    prompts = tmp_path / "own.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"ask {n}"}) + "\n" for n in range(10)))
    with serving(Rival(noting("fast")).app) as url, serving(Rival(noting("plain")).app) as other:
        options = ("--url", url, "--plain-url", other, "--prompts", prompts)
        assert run(tmp_path / "out", *options).exit_code == 0
    measured = order[2:]  # each was warmed up by one request
    assert measured == ["fast"] * 8 + ["plain"] * 8 + ["fast"] * 2 + ["plain"] * 2


def test_sampling_is_sent_and_meta_info_only_to_who_takes_it(data: Path, tmp_path: Path) -> None:
    async def strict(body: Body) -> JSONResponse:
        if "return_meta_info" in body:
            return JSONResponse({"error": "unknown field return_meta_info"}, 400)
        return await echo(body)

    rival = Rival(strict)
    options = ("--temperature", 1, "--top-p", 0.95, "--top-k", 20, "--seed", 7, "--thinking", "low")
    with serving(rival.app) as url:
        done = run(tmp_path / "out", "--url", url, "--data-dir", data, *options)
    assert done.exit_code == 0, done.output
    assert results(tmp_path / "out")["settings"]["meta_info"] is False
    sent = rival.measured[0]
    assert [sent[name] for name in ("temperature", "top_p", "top_k", "seed")] == [1, 0.95, 20, 7]
    assert sent["chat_template_kwargs"]["reasoning_effort"] == "low"


def test_a_server_that_tells_lengths_is_believed(data: Path, tmp_path: Path) -> None:
    async def telling(body: Body) -> JSONResponse:
        first = len(body["messages"]) == 1
        length, passes = (4.0, 2) if first else (1.0, 6)
        meta = {"spec_accept_length": length, "spec_verify_ct": passes}
        return completion("text", 9, meta_info=meta)

    with serving(Rival(telling).app) as url:
        assert run(tmp_path / "out", "--url", url, "--data-dir", data).exit_code == 0
    drafting = results(tmp_path / "out")["results"]["total"]["drafting"]
    assert drafting["tokens_per_round"] == pytest.approx(2.5)
    assert drafting["tokens_per_round_pooled"] == pytest.approx((2 * 8 + 2 * 6) / (2 * 2 + 2 * 6))


def test_failed_requests_are_listed_and_tried_again(data: Path, tmp_path: Path) -> None:
    healthy = False

    async def moody(body: Body) -> JSONResponse:
        text = body["messages"][-1]["content"]
        if not healthy and text == "hello 0":
            return JSONResponse({"error": "out of luck"}, 500)
        if not healthy and text == "and again":
            await asyncio.sleep(3)
        return await echo(body)

    options = ("--data-dir", data, "--timeout", 2)
    with serving(Rival(moody).app) as url:
        done = run(tmp_path / "out", "--url", url, *options)
        assert done.exit_code == 0, done.output
        failed = results(tmp_path / "out")["results"]["failed"]
        errors = {(one["row"], one["turn"]): one["error"] for one in failed}
        assert set(errors) == {(0, 0), (1, 1)}
        assert "status 500" in errors[0, 0]
        assert "out of luck" in errors[0, 0]
        assert "no answer in time" in errors[1, 1]
        assert "2 turns without an answer" in done.output
        healthy = True
        assert run(tmp_path / "out", "--url", url, *options).exit_code == 0
    again = results(tmp_path / "out")["results"]
    assert again["failed"] == []
    assert again["total"]["responses"] == 4


def test_a_server_without_answers_is_one_line(data: Path, tmp_path: Path) -> None:
    async def broken(body: Body) -> JSONResponse:
        return JSONResponse({"error": "no"}, 503)

    with serving(Rival(broken).app) as url:
        done = run(tmp_path / "out", "--url", url, "--data-dir", data)
    assert done.exit_code == 2
    assert done.output.count("\n") == 1
    assert "refuses requests: status 503" in done.output


@pytest.mark.parametrize("model", [(), ("--model", "any")])
def test_a_refused_connection_is_one_line(
    data: Path, tmp_path: Path, model: tuple[str, ...]
) -> None:
    with serving(Rival(echo).app) as url:
        pass  # now nothing listens there
    done = run(tmp_path / "out", "--url", url, "--data-dir", data, *model)
    assert done.exit_code == 2
    assert done.output.startswith(f"dflash-train: error: {url}/v1 cannot be reached: ")
    assert done.output.count("\n") == 1


def test_what_is_no_url_is_one_line(data: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--url", "localhost:8000", "--data-dir", data)
    assert done.exit_code == 2
    assert "the URL is 'localhost:8000'" in done.output
