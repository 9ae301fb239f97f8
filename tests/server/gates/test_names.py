"""How HTTP writes names: one form for each, whatever a client makes of it."""

import pytest

from dflash_serve.server.gates.names import (
    Authority,
    canonical,
    canonical_origin,
    is_loopback,
    listens_on_loopback,
    parse_authority,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("LocalHost", "localhost", ""),
        ("localhost.:8000", "localhost", "8000"),
        (" box:80 ", "box", "80"),
        ("box:", "box", ""),
        ("127.0.0.1:1", "127.0.0.1", "1"),
        ("[::1]:8000", "::1", "8000"),
        ("[0:0:0:0:0:0:0:1]", "::1", ""),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1", "80"),
        ("[FE80::1]", "fe80::1", ""),
    ],
)
def test_an_authority(text: str, host: str, port: str) -> None:
    assert parse_authority(text) == Authority(host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a b", "user@box", "box:80:80", "::1", "[::1", "box:x", "a/b", "a,b", "http://a"],
)
def test_no_authority(text: str) -> None:
    assert parse_authority(text) is None


@pytest.mark.parametrize(
    "host", ["localhost", "ui.localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]
)
def test_loopback_names(host: str) -> None:
    assert is_loopback(canonical(host))


@pytest.mark.parametrize(
    "host", ["localhost.example", "mylocalhost", "127.0.0.1.example", "0.0.0.0", "::", "10.0.0.1"]
)
def test_names_that_only_look_like_loopback(host: str) -> None:
    assert not is_loopback(canonical(host))


def test_where_a_server_listens() -> None:
    assert listens_on_loopback("localhost")
    assert listens_on_loopback("127.0.0.2")
    assert listens_on_loopback("::1")
    assert not listens_on_loopback("0.0.0.0")
    assert not listens_on_loopback("::")
    assert not listens_on_loopback("not.a.host.invalid")


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://LocalHost:80", "http://localhost"),
        ("https://ui.example:443", "https://ui.example"),
        ("https://ui.example:80", "https://ui.example:80"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("app://UI", "app://ui"),
        ("null", None),
        ("", None),
        ("http://", None),
        ("http://a/b", None),
        ("//a", None),
    ],
)
def test_an_origin(text: str, origin: str | None) -> None:
    assert canonical_origin(text) == origin
