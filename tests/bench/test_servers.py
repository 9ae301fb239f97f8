"""`dflash-bench start`, `stops` and `http` on the shipped pair, made short: real processes."""

from dflash_serve.bench import httpcost, startup, stops
from dflash_serve.bench.options import HttpOptions, StartOptions, StopsOptions


def test_a_fresh_server_gives_its_first_token_after_it_is_healthy() -> None:
    result = startup.run(StartOptions(repeats=1))
    ready = result.measured["ready_seconds"]["repeats"]
    first = result.measured["first_token_seconds"]["repeats"]
    assert len(ready) == len(first) == 1
    assert 0 < ready[0] < first[0]
    assert result.measured["help_seconds"]["median"] > 0
    assert startup.tables(result)[0].row_count == 3


def test_servers_under_load_end_with_exit_code_0() -> None:
    result = stops.run(StopsOptions(stops=1, clients=6, drain_timeout=0.5, longest=1.0))
    assert result.failures == ()
    assert result.measured["exit_codes"] == {"0": 1}
    assert len(result.measured["stops"]) == 1
    assert [made.row_count for made in stops.tables(result)] == [1, 1]


def test_the_cost_of_http_is_measured_on_both_sides_of_the_socket() -> None:
    result = httpcost.run(HttpOptions(prompts=2, streams=2, chunks=10, pace=0.002, repeats=1))
    first, chunk = result.measured["first_text"], result.measured["per_chunk"]
    assert first["requests"] == 2
    assert 0 < first["first_byte"]["median"] < first["over_http"]["median"]
    assert first["in_process"]["median"] > 0
    assert chunk["chunks"] == 20
    assert 0 < chunk["engine_alone_ms"] < chunk["thread_ms"] <= chunk["process_ms"]
    assert [made.row_count for made in httpcost.tables(result)] == [4, 1]
