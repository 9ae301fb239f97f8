"""Names of published targets lead to their drafters; other names lead nowhere."""

import pytest

from dflash_serve.adapters.pairs import PAIRS, find_pair


@pytest.mark.parametrize(
    "name",
    [
        "Qwen3-8B",
        "qwen3-8b",
        "Qwen/Qwen3-8B",
        "mlx-community/Qwen3-8B-4bit",
        "mlx-community/Qwen3-8B-8bit",
        "mlx-community/Qwen3-8B-4bit-DWQ",
        "mlx-community/Qwen3-8B-bf16",
        "/models/Qwen3-8B",
        "/models/Qwen3-8B/",
        "./Qwen3-8B-4bit/",
    ],
)
def test_variants_of_a_published_target_share_its_drafter(name: str) -> None:
    pair = find_pair(name)
    assert pair is not None
    assert (pair.target, pair.drafter) == ("Qwen/Qwen3-8B", "z-lab/Qwen3-8B-DFlash-b16")


@pytest.mark.parametrize(
    "name",
    ["Qwen3-9B", "Qwen3-8B-Base", "Qwen3-8B-finetuned", "Qwen3-14B", "my-Qwen3-8B", "", "/", "x/y"],
)
def test_a_target_without_a_published_drafter_has_no_pair(name: str) -> None:
    assert find_pair(name) is None


def test_the_table_is_keyed_by_the_lower_case_name_of_its_target() -> None:
    for name, pair in PAIRS.items():
        assert name == pair.target.rsplit("/", 1)[-1].lower()
        assert pair.drafter.count("/") == 1
        assert find_pair(pair.target) == pair
