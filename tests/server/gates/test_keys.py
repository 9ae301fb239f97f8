"""Two keys: one for inference, one for /admin."""

from collections.abc import Iterator

import httpx
import pytest

from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, make_app, saying, serving

ADMIN = ["/admin/drafter", "/admin", "/admin/nothing"]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def both(tokenizer: ChatTokenizer) -> Iterator[httpx.Client]:
    engine = FakeEngine(saying(tokenizer, "hello"))
    app = make_app(engine, tokenizer, api_key="infer", admin_key="rule")
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("path", ADMIN)
def test_the_inference_key_does_not_open_admin(both: httpx.Client, path: str) -> None:
    for headers in (
        {},
        bearer("infer"),
        {"x-api-key": "infer"},
        bearer("Rule"),
        {"Authorization": "Bearer"},
    ):
        answer = both.get(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    for headers in (bearer("rule"), {"x-api-key": "rule"}):
        assert both.get(path, headers=headers).status_code == (200 if path == ADMIN[0] else 404)


def test_the_admin_key_does_not_open_inference(both: httpx.Client) -> None:
    assert both.get("/v1/models", headers=bearer("rule")).status_code == 401
    assert both.get("/v1/models", headers=bearer("infer")).status_code == 200
    assert both.get("/health").status_code == 200


@pytest.mark.parametrize("api_key", [None, "infer"])
@pytest.mark.parametrize("path", ADMIN)
def test_without_an_admin_key_there_is_no_admin(
    tokenizer: ChatTokenizer, api_key: str | None, path: str
) -> None:
    engine = FakeEngine(saying(tokenizer, "hello"))
    with serving(make_app(engine, tokenizer, api_key=api_key)) as url:
        for headers in ({}, bearer("infer"), bearer("None"), {"Authorization": "Bearer"}):
            for method in ("GET", "POST"):
                answer = httpx.request(method, url + path, headers=headers, timeout=60)
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (403, "admin_disabled")
                assert "--admin-key" in error["message"]


def test_with_an_admin_key_alone_inference_is_open(tokenizer: ChatTokenizer) -> None:
    engine = FakeEngine(saying(tokenizer, "hello"))
    with serving(make_app(engine, tokenizer, admin_key="rule")) as url:
        assert httpx.get(f"{url}/v1/models", timeout=60).status_code == 200
        assert httpx.get(f"{url}/admin/drafter", timeout=60).status_code == 401
