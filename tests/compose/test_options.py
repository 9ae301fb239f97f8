"""Options of the model: checked once, each mistake one readable line."""

from typing import Any

import pytest

from dflash_serve.compose.options import (
    EngineOptions,
    OptionsError,
    option,
    parse_block_size,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", 0),
        ("max_queue", -1),
        ("max_context", -5),
        ("block_size", -1),
        ("prefill_chunk", 0),
        ("memory_limit", -1),
        ("speculation", "some"),
        ("cpu_weights", "float16"),
        ("target", ""),
        ("drafter", ""),
        ("second_drafter", ""),
        ("tree", ""),
        ("tree", "1"),
        ("tree", "65"),
        ("tree", "many"),
        ("tool_parser", ""),
        ("reasoning_parser", ""),
        ("seed", 2**63),
    ],
)
def test_a_bad_value_names_the_option_on_one_line(name: str, value: object) -> None:
    with pytest.raises(OptionsError) as caught:
        EngineOptions(**{name: value})  # type: ignore[arg-type]
    assert option(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "asked", [{"tree": "8"}, {"tree": "auto"}, {"second_drafter": "auto"}, {"drafter_bits": 4}]
)
def test_what_needs_a_drafter_is_refused_without_one(asked: dict[str, object]) -> None:
    (name,) = asked
    with pytest.raises(OptionsError, match=f"{option(name)} is .*, but --drafter is none"):
        EngineOptions(drafter="none", **asked)  # type: ignore[arg-type]
    with pytest.raises(OptionsError, match=f"{option(name)} is .*, but --speculation off leaves"):
        EngineOptions(speculation="off", **asked)  # type: ignore[arg-type]
    for nobody in ({"drafter": "none"}, {"speculation": "off"}):
        EngineOptions(tree="off", **nobody)


def test_blocks_without_speculation_are_refused() -> None:
    with pytest.raises(OptionsError, match="--block-size is 8, but --speculation off leaves"):
        EngineOptions(speculation="off", block_size=8)
    EngineOptions(drafter="none", block_size=8)  # for a drafter that is swapped in later


@pytest.mark.parametrize(
    ("asked", "adaptive"),
    [
        ({}, True),
        ({"block_size": 8}, False),
        ({"speculation": "always"}, False),
        ({"speculation": "off"}, False),
    ],
)
def test_a_block_size_that_is_given_is_kept_to(asked: dict[str, Any], adaptive: bool) -> None:
    assert EngineOptions(**asked).adaptive is adaptive


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("123", 123), ("8GB", 8 * 10**9), ("512 MB", 512 * 10**6), ("1.5GiB", 3 * 2**29)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes("memory_limit", text) == size


@pytest.mark.parametrize("text", ["", "GB", "8XB", "-1", "1e9", "8 G B", "\u0668GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(OptionsError, match="--memory-limit"):
        parse_bytes("memory_limit", text)


def test_block_size() -> None:
    assert parse_block_size("auto") == 0
    assert parse_block_size("8") == 8
    for text in ("0", "-1", "x", "1.5", ""):
        with pytest.raises(OptionsError, match="--block-size"):
            parse_block_size(text)
