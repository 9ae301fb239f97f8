"""Bounds of an engine's limits."""

import pytest

from dflash_serve.engine.config import EngineConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", 0),
        ("max_context", 0),
        ("prefill_chunk", 0),
        ("block_size", 0),
        ("max_queue", -1),
        ("memory_limit", -1),
        ("max_stall", 0.0),
        ("max_stall", float("nan")),
    ],
)
def test_a_limit_out_of_bounds_is_refused_by_name_and_value(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        EngineConfig(**{name: value})


def test_none_means_zero_where_it_may() -> None:
    EngineConfig(max_queue=0, memory_limit=0)
