"""Memory of training steps by layers, on pairs of a size that a test can hold."""

from functools import cache
from typing import Any

import pytest

from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import TrainingMemoryOptions
from dflash_serve.bench.shape_configs import TRAINED
from dflash_serve.bench.training_memory import plot, run, tables

TARGET: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 128,
    "num_hidden_layers": 12,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
PAIRS = {"small": (TARGET, 6, 8)}


@cache
def measure(**options: Any) -> dict[str, Any]:
    given = TrainingMemoryOptions.model_validate(
        {"pairs": ("small",), "length": 32, "anchors": 16, **options}
    )
    result = run(given, PAIRS)
    assert tables(result)
    assert plot(result).axes
    return dict(result.measured["small"])


@pytest.mark.parametrize("muon", [False, True])
def test_the_peak_of_all_layers_follows_from_two(muon: bool) -> None:
    """Roughly, as a drafter this small is updated as one portion, in an order of MLX's own."""
    whole = measure(muon=muon)
    assert list(whole["steps"]) == ["6"]
    room = (whole["planned_bytes"] - 1) / 1e9
    parts = measure(muon=muon, memory_gb=room)
    assert list(parts["steps"]) == ["1", "2"]
    assert parts["peak_bytes"] == pytest.approx(whole["peak_bytes"], rel=0.35)


def test_what_a_plan_says_is_no_less_than_the_peak() -> None:
    step = measure(muon=False)["steps"]["6"]
    assert step["held_bytes"] < step["peak_bytes"] <= step["planned_bytes"]


def test_no_room_and_unknown_pairs_are_refused() -> None:
    with pytest.raises(
        BenchError, match=r"small: a step of one layer takes about \d+ bytes, but 1000 "
    ):
        measure(memory_gb=1e-6)
    given = TrainingMemoryOptions.model_validate({"pairs": ("gpt-6",)})
    with pytest.raises(BenchError, match="--only names 'gpt-6', which is none of qwen3-4b"):
        run(given)


@pytest.mark.parametrize("name", TRAINED)
def test_the_published_pairs_can_be_planned(name: str) -> None:
    """Up to the point where memory is looked at: configs that nothing could be made of fail."""
    given = TrainingMemoryOptions.model_validate({"pairs": (name,), "memory_gb": 1e-6})
    with pytest.raises(BenchError, match=f"{name}: a step of one layer takes about"):
        run(given)
