"""`dflash-bench processing` on a tiny target: every measurement is made and can be shown."""

from dflash_serve.bench import processing
from dflash_serve.bench.options import ProcessingOptions
from dflash_serve.bench.processing import OPTIONS


def test_every_option_is_measured_at_every_number_of_rows() -> None:
    options = ProcessingOptions(
        random_target="qwen3-tiny", vocab=1024, rows=(1, 2), repeats=1, prompts=2, max_tokens=24
    )
    result = processing.run(options)
    rounds = result.measured["rounds"]
    assert [(e["rows"], e["option"]) for e in rounds] == [(r, o) for r in (1, 2) for o in OPTIONS]
    assert all(entry["ratio"] > 0 for entry in rounds)
    structured = result.measured["structured"]
    assert [entry["rows"] for entry in structured] == [1, 2]
    assert all(entry["rounds"]["schema"]["tokens_per_round"] >= 1 for entry in structured)
    assert result.measured["neighbours"]["ratio"] > 0
    assert result.measured["first_mask"]["worst_ms"] > 0
    assert [made.row_count for made in processing.tables(result)] == [16, 4, 1, 1]
    assert processing.plot(result).axes
