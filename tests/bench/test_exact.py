"""`dflash-bench exact`: equality under late joins and cancels, and that it would be noticed."""

import pytest

from dflash_serve.bench import exact
from dflash_serve.bench.options import ExactOptions


@pytest.mark.parametrize("name", ["qwen3-tiny", "mistral-tiny", "qwen3_5-tiny"])
def test_a_tiny_pair_is_exact(name: str) -> None:
    options = ExactOptions(
        random_target=name,
        prompts=10,
        prompt_length=12,
        batches=(1, 3),
        block_sizes=(2, 8),
        max_tokens=10,
        cancel=0.3,
        seed=3,
    )
    result = exact.run(options)
    assert result.failures == ()
    assert result.measured["compared"] == 40
    for entry in result.measured["combinations"]:
        assert entry["equal"] + entry["cancelled_prefix"] == 10
        assert entry["wrong"] == entry["leaked_rows"] == 0
    assert any(entry["cancelled_prefix"] for entry in result.measured["combinations"])
    assert any(entry["accepted_drafts"] for entry in result.measured["combinations"])
    assert any(entry["late_joins"] for entry in result.measured["combinations"])
    assert exact.tables(result)
    assert exact.plot(result)
