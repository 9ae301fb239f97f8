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
    with pytest.raises(OptionsError) as caught:
        Settings(**{name: value})  # type: ignore[arg-type]
    assert option(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_key_is_not_shown() -> None:
    assert "hush" not in repr(Settings(api_key="hush"))


def test_unknown_names_are_errors() -> None:
    with pytest.raises(TypeError, match="max_bacth"):
        Settings(max_bacth=4)  # type: ignore[call-arg]


def test_the_key_comes_from_the_option_or_else_the_environment() -> None:
    environment = {settings.API_KEY_VARIABLE: "from-env"}
    assert settings.api_key("given", environment) == "given"
    assert settings.api_key(None, environment) == "from-env"
    assert settings.api_key(None, {settings.API_KEY_VARIABLE: ""}) is None
    assert settings.api_key(None, {}) is None
