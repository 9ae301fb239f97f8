"""Options: checked once, each mistake one readable line."""

import pytest

from dflash_serve.compose.options import OptionsError, option
from dflash_serve.server import settings
from dflash_serve.server.settings import Settings


def test_the_defaults_are_valid() -> None:
    assert Settings().port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("max_batch", 0),
        ("max_queue", -1),
        ("max_context", -5),
        ("block_size", -1),
        ("prefill_chunk", 0),
        ("memory_limit", -1),
        ("keep_alive", float("nan")),
        ("drain_timeout", float("inf")),
        ("max_body_bytes", 1),
        ("speculation", "some"),
        ("log_level", "loud"),
        ("served_model_name", ""),
        ("api_key", ""),
        ("admin_key", ""),
        ("max_connections", 0),
        ("max_connections", 70000),
        ("send_timeout", 0),
        ("send_timeout", float("inf")),
        ("target", ""),
        ("tool_parser", ""),
        ("reasoning_parser", ""),
        ("seed", 2**63),
    ],
)
def test_a_bad_value_names_the_option_on_one_line(name: str, value: object) -> None:
    with pytest.raises(OptionsError) as caught:
        Settings(**{name: value})  # type: ignore[arg-type]
    assert option(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_key_is_not_shown() -> None:
    assert "hush" not in repr(Settings(api_key="hush", admin_key="also hush"))


def test_unknown_names_are_errors() -> None:
    with pytest.raises(TypeError, match="max_bacth"):
        Settings(max_bacth=4)  # type: ignore[call-arg]


def test_a_key_comes_from_the_option_or_else_the_environment() -> None:
    environment = {settings.ADMIN_KEY_VARIABLE: "from-env"}
    assert settings.key("given", settings.ADMIN_KEY_VARIABLE, environment) == "given"
    assert settings.key(None, settings.ADMIN_KEY_VARIABLE, environment) == "from-env"
    assert settings.key(None, settings.API_KEY_VARIABLE, environment) is None
    assert settings.key(None, settings.API_KEY_VARIABLE, {settings.API_KEY_VARIABLE: ""}) is None


def test_one_key_is_not_for_both() -> None:
    with pytest.raises(OptionsError, match="--admin-key is the same as --api-key"):
        Settings(api_key="hush", admin_key="hush")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "cors_origin",
            ("*", "http://ui.example", "HTTPS://UI:8443", "http://[::1]:80", "app://ui"),
            (
                "ui.example",
                "http://ui.example/",
                "http://ui/chat",
                "null",
                "",
                "http://",
                "http://a b",
            ),
        ),
        (
            "allowed_host",
            ("box", "chat.example.", "10.0.0.1", "::1", "[::1]", "my_box"),
            ("", "box:8000", "http://box", "a/b", "*:80", "a b", "[::1]:80"),
        ),
    ],
)
def test_names_of_hosts_and_origins(name: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        Settings(**{name: (value,)})  # type: ignore[arg-type]
    for value in bad:
        with pytest.raises(OptionsError) as caught:
            Settings(**{name: (value,)})  # type: ignore[arg-type]
        assert f"{option(name)} is {value!r}" in str(caught.value)
