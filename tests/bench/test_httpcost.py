"""`dflash-bench http` on the shipped pair, made short: no figure asserted."""

from dflash_serve.bench import httpcost
from dflash_serve.bench.options import HttpOptions


def test_the_cost_of_http_is_measured_on_both_sides_of_the_socket() -> None:
    result = httpcost.run(HttpOptions(prompts=2, streams=2, chunks=10, pace=0.002, repeats=1))
    first, chunk = result.measured["first_text"], result.measured["per_chunk"]
    assert first["requests"] == 2
    assert 0 < first["first_byte"]["median"] < first["over_http"]["median"]
    assert first["in_process"]["median"] > 0
    assert chunk["chunks"] == 20
    assert 0 < chunk["engine_alone_ms"] < chunk["thread_ms"] <= chunk["process_ms"]
    assert [made.row_count for made in httpcost.tables(result)] == [4, 4]
