"""`dflash-bench sweep` on a tiny pair: every arm is measured, and tokens never depend on one."""

from dflash_serve.bench import sweep
from dflash_serve.bench.options import SweepOptions


def test_every_set_is_measured_with_equal_tokens() -> None:
    options = SweepOptions(
        random_target="qwen3-tiny",
        prompts=3,
        prompt_length=8,
        batches=(2,),
        max_tokens=8,
        repeats=1,
    )
    result = sweep.run(options)
    cases = result.measured["cases"]
    assert [case["set"] for case in cases] == ["easy", "mixed", "useless"]
    for case in cases:
        names = [arm["name"] for arm in case["arms"]]
        assert names == ["plain", "block 1", "block 2", "block 4", "block 8", "block 16", "auto"]
        assert case["arms"][0]["of_plain"] == 1.0
        assert case["different_answers"] == 0
        assert {cost["rows"] for cost in case["round_costs"]} >= {1, 2}
    assert not any("differ" in failure for failure in result.failures)
    assert [made.row_count for made in sweep.tables(result)] == [21, 3]
    assert sweep.plot(result).axes
