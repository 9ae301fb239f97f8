"""`dflash-bench serve` against a small scripted server that talks like OpenAI's."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError

from dflash_serve.bench import serve
from dflash_serve.bench.load import Endpoint, LoadRun, run_load
from dflash_serve.bench.options import ServeOptions
from dflash_serve.bench.serve import figures
from dflash_serve.bench.workloads import GENERIC
from dflash_serve.measure.errors import DataError
from tests.fakes import serving


def scripted_app(seen: list[dict[str, Any]]) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"data": [{"id": "scripted"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        body = await request.json()
        seen.append(body)
        if body["model"] == "broken":
            return JSONResponse({"error": {"message": "no such\nmodel"}}, status_code=404)
        return StreamingResponse(events(body), media_type="text/event-stream")

    return app


def events(body: dict[str, Any]) -> Iterator[str]:
    yield ": a comment\n\n"
    yield f"data: {json.dumps({'choices': [{'delta': {'role': 'assistant'}}]})}\n\n"
    for text in ("Good", " day"):
        yield f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n"
    if body["model"] != "no-usage":
        usage: dict[str, Any] = {"choices": [], "usage": {"completion_tokens": 7}}
        if body.get("return_meta_info"):
            usage["meta_info"] = {"spec_accept_length": 3.5, "spec_verify_ct": 2}
        yield f"data: {json.dumps(usage)}\n\n"
    yield "data: [DONE]\n\n"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    seen: list[dict[str, Any]] = []
    with serving(scripted_app(seen)) as url:
        yield f"{url}/v1", seen


def load(url: str, **changes: Any) -> LoadRun:
    endpoint = Endpoint("x", url, **({"model": "scripted"} | changes))
    return run_load(endpoint, GENERIC[:5], 2, 16)


def test_the_whole_command(server: tuple[str, list[dict[str, Any]]]) -> None:
    url, seen = server
    seen.clear()
    result = serve.run(
        ServeOptions(base_url=url, clients=(1, 2), requests=3, warmup=1, repeats=2, max_tokens=9)
    )
    assert result.failures == ()
    loads = result.measured["loads"]
    assert [entry["clients"] for entry in loads] == [1, 2]
    assert all(entry["requests"] == 6 for entry in loads)
    assert all(entry["completion_tokens"] == 42 for entry in loads)
    assert len(seen) == 1 + 2 + 2 * 2 * 3  # warm-up, then repeats x clients x requests
    assert {body["model"] for body in seen} == {"scripted"}
    assert {body["max_tokens"] for body in seen} == {9}
    assert "return_meta_info" not in seen[0]
    assert serve.tables(result)
    assert serve.plot(result)


def test_usage_and_drafting_figures(server: tuple[str, list[dict[str, Any]]]) -> None:
    found = figures([load(server[0], meta_info=True)])
    assert found["completion_tokens"] == 35
    assert found["tokens_counted_by"] == "usage"
    assert found["tokens_per_round"] == found["tokens_per_round_pooled"] == 3.5
    assert found["verify_passes"] == 10


def test_without_usage_chunks_are_counted(server: tuple[str, list[dict[str, Any]]]) -> None:
    found = figures([load(server[0], model="no-usage")])
    assert found["completion_tokens"] == 10
    assert found["tokens_counted_by"] == "chunks"


def test_errors_are_counted_and_shown(server: tuple[str, list[dict[str, Any]]]) -> None:
    found = figures([load(server[0], model="broken")])
    assert found["errors"] == 5
    assert "404" in found["first_error"]
    assert "no such" in found["first_error"]


def test_a_server_that_is_not_there() -> None:
    options = ServeOptions(base_url="http://127.0.0.1:9/v1", clients=(1,))
    with pytest.raises(DataError, match="cannot be reached"):
        serve.run(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give --base-url, or --spawn"),
        ({"base_url": "http://x/v1", "spawn": ("dflash",)}, "give --base-url, or --spawn"),
        ({"spawn": ("vllm",)}, "should be 'dflash'"),
        ({"base_url": "localhost"}, "must start with http"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServeOptions(**options)
