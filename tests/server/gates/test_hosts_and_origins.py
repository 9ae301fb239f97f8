"""Which names and which pages a server takes requests from, over a real socket."""

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, make_app, saying, serving

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "fake/model", "messages": [{"role": "user", "content": "hi"}]}
TYPE = ("Content-Type", "application/json")


@dataclass(frozen=True, slots=True)
class Door:
    """A server, and requests to it whose every header is the test's own."""

    address: str
    port: int
    engine: FakeEngine

    def ask(self, *headers: tuple[str, str], method: str = "POST", path: str = CHAT) -> Any:
        """Status, headers and body of the answer."""
        with contextlib.closing(http.client.HTTPConnection(self.address, self.port)) as wire:
            wire.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            body = json.dumps(GOOD).encode() if method == "POST" else b""
            for name, value in headers:
                wire.putheader(name, value)
            if body:
                wire.putheader("Content-Length", str(len(body)))
            wire.endheaders(body)
            answer = wire.getresponse()
            return answer.status, answer.headers, answer.read()

    def status(self, *headers: tuple[str, str], **options: str) -> int:
        return int(self.ask(TYPE, *headers, **options)[0])


@contextlib.contextmanager
def door(tokenizer: ChatTokenizer, **options: object) -> Iterator[Door]:
    engine = FakeEngine(saying(tokenizer, "hello"))
    with serving(make_app(engine, tokenizer, **options)) as url:  # type: ignore[arg-type]
        parts = urlsplit(url)
        yield Door(parts.hostname or "", parts.port or 0, engine)


@pytest.fixture(scope="module")
def local(tokenizer: ChatTokenizer) -> Iterator[Door]:
    with door(tokenizer) as made:
        yield made


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:{port}",
        "localhost.:99",
        "ui.localhost:{port}",
        "127.0.0.1:{port}",
        "127.8.8.8",
        "[::1]:{port}",
        "host.docker.internal:{port}",
    ],
)
def test_names_of_this_machine_are_taken(local: Door, host: str) -> None:
    assert local.status(("Host", host.format(port=local.port))) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost.evil.example", "0.0.0.0", "10.0.0.1"]
)
def test_other_names_are_not_on_a_loopback_address(local: Door, host: str) -> None:
    before = len(local.engine.requests)
    name = host.format(port=local.port)
    status, _, body = local.ask(TYPE, ("Host", name), ("Origin", f"http://{name}"))
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (421, "host_not_allowed")
    assert f"--allowed-host {name.partition(':')[0]}" in error["message"]
    assert local.status(("Host", name), method="GET", path="/health") == 421
    assert len(local.engine.requests) == before


@pytest.mark.parametrize("hosts", [["a b"], ["http://localhost"], ["localhost", "localhost"], []])
def test_a_request_has_one_host_that_is_one(local: Door, hosts: list[str]) -> None:
    status, _, body = local.ask(TYPE, *(("Host", host) for host in hosts))
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_host")


def test_http_1_0_needs_no_host(local: Door) -> None:
    with contextlib.closing(http.client.HTTPConnection(local.address, local.port)) as wire:
        wire.connect()
        wire.sock.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        answer = wire.sock.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")


def test_names_are_added_to_a_loopback_address(tokenizer: ChatTokenizer) -> None:
    with door(tokenizer, allowed_host=("Chat.Example", "::5")) as made:
        for host in ("chat.example", "chat.example.:443", "[::5]:1", "localhost"):
            assert made.status(("Host", host)) == 200
        for host in ("example", "evil.chat.example", "[::6]"):
            assert made.status(("Host", host)) == 421


def test_a_public_address_takes_any_name_unless_told(tokenizer: ChatTokenizer) -> None:
    with door(tokenizer, host="0.0.0.0") as made:
        for host in ("box", "10.1.2.3:8000", "localhost"):
            assert made.status(("Host", host)) == 200
        assert made.status(("Host", "a b")) == 400
    with door(tokenizer, host="0.0.0.0", allowed_host=("box",)) as made:
        assert made.status(("Host", "box:1")) == made.status(("Host", "localhost")) == 200
        assert made.status(("Host", "other")) == 421


def test_the_servers_own_pages_may_use_it(local: Door) -> None:
    """As a browser does: its Origin is the scheme and the Host that the page was read from."""
    for host in (f"localhost:{local.port}", f"127.0.0.1:{local.port}", f"[::1]:{local.port}"):
        assert local.status(("Host", host), ("Origin", f"http://{host}")) == 200
    assert local.status(("Host", "localhost:80"), ("Origin", "http://localhost")) == 200
    proxied = ("X-Forwarded-Proto", "https")  # of a proxy on this machine
    assert local.status(proxied, ("Host", "localhost"), ("Origin", "https://localhost")) == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost:1",
        "http://127.0.0.1:{port}",
        "https://localhost:{port}",
        "http://localhost:{port}.evil.example",
        "null",
        "",
        "localhost:{port}",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", CHAT), ("OPTIONS", CHAT), ("GET", "/v1/models"), ("GET", "/health")],
)
def test_foreign_pages_may_not(local: Door, origin: str, method: str, path: str) -> None:
    before = len(local.engine.requests)
    status, headers, body = local.ask(
        TYPE,
        ("Host", f"localhost:{local.port}"),
        ("Origin", origin.format(port=local.port)),
        ("Access-Control-Request-Method", "POST"),
        method=method,
        path=path,
    )
    error = json.loads(body)["error"]
    assert (status, error["type"], error["code"]) == (
        403,
        "permission_error",
        "origin_not_allowed",
    )
    assert "--cors-origin" in error["message"]
    assert "access-control-allow-origin" not in headers
    assert len(local.engine.requests) == before


def test_one_own_origin_does_not_excuse_a_foreign_one(local: Door) -> None:
    own = f"localhost:{local.port}"
    assert (
        local.status(("Host", own), ("Origin", f"http://{own}"), ("Origin", "http://evil.example"))
        == 403
    )


def test_anthropics_routes_refuse_in_anthropics_shape(local: Door) -> None:
    page = (TYPE, ("Host", "localhost"), ("Origin", "http://evil.example"))
    _, _, body = local.ask(*page, path="/v1/messages")
    assert json.loads(body)["error"]["type"] == "permission_error"
    assert json.loads(body)["type"] == "error"


def test_named_origins_may(tokenizer: ChatTokenizer) -> None:
    with door(tokenizer, cors_origin=("http://UI.example:80", "app://ui")) as made:
        for origin in ("http://ui.example", "app://ui"):
            status, headers, _ = made.ask(TYPE, ("Host", "localhost"), ("Origin", origin))
            assert (status, headers["access-control-allow-origin"]) == (200, origin)
        host = ("Host", "localhost")
        assert made.status(host, ("Origin", "http://localhost")) == 200
        assert made.status(host, ("Origin", "http://ui.example:81")) == 403
        assert made.status(host, ("Origin", "null")) == 403


def test_every_origin_may_if_told(tokenizer: ChatTokenizer) -> None:
    with door(tokenizer, cors_origin=("*",)) as made:
        for origin in ("http://any.example", "null"):
            status, headers, _ = made.ask(TYPE, ("Host", "localhost"), ("Origin", origin))
            assert (status, headers["access-control-allow-origin"]) == (200, "*")


def test_what_an_allowed_page_is_refused_it_can_read(tokenizer: ChatTokenizer) -> None:
    options: dict[str, Any] = {"cors_origin": ("http://ui.example",), "api_key": "k"}
    with door(tokenizer, **options) as made:
        page = (("Host", "localhost"), ("Origin", "http://ui.example"))
        for headers, status in ((page, 401), ((*page, ("Authorization", "Bearer k")), 415)):
            seen, answer, _ = made.ask(*headers)
            assert (seen, answer["access-control-allow-origin"]) == (status, "http://ui.example")


def test_clients_without_origin_are_served_as_ever(local: Door) -> None:
    url = f"http://{local.address}:{local.port}"
    assert httpx.post(url + CHAT, json=GOOD, timeout=60).status_code == 200
