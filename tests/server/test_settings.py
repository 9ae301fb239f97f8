"""Options: checked once, each mistake one readable line."""

import pytest

from dflash_serve.server import settings
from dflash_serve.server.settings import Settings, SettingsError


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
        ("speculation", "auto"),
        ("log_level", "loud"),
        ("served_model_name", ""),
        ("api_key", ""),
        ("target", ""),
        ("tool_parser", ""),
        ("reasoning_parser", ""),
        ("seed", 2**63),
    ],
)
def test_a_bad_value_names_the_option_on_one_line(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**{name: value})  # type: ignore[arg-type]
    assert settings.option(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_key_is_not_shown() -> None:
    assert "hush" not in repr(Settings(api_key="hush"))


def test_unknown_names_are_errors() -> None:
    with pytest.raises(TypeError, match="max_bacth"):
        Settings(max_bacth=4)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("123", 123), ("8GB", 8 * 10**9), ("512 MB", 512 * 10**6), ("1.5GiB", 3 * 2**29)],
)
def test_sizes(text: str, size: int) -> None:
    assert settings.parse_bytes("memory_limit", text) == size


@pytest.mark.parametrize("text", ["", "GB", "8XB", "-1", "1e9", "8 G B", "\u0668GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(SettingsError, match="--memory-limit"):
        settings.parse_bytes("memory_limit", text)


def test_block_size() -> None:
    assert settings.parse_block_size("auto") == 0
    assert settings.parse_block_size("8") == 8
    for text in ("0", "-1", "x", "1.5", ""):
        with pytest.raises(SettingsError, match="--block-size"):
            settings.parse_block_size(text)


def test_the_key_comes_from_the_option_or_else_the_environment() -> None:
    environment = {settings.API_KEY_VARIABLE: "from-env"}
    assert settings.api_key("given", environment) == "given"
    assert settings.api_key(None, environment) == "from-env"
    assert settings.api_key(None, {settings.API_KEY_VARIABLE: ""}) is None
    assert settings.api_key(None, {}) is None
