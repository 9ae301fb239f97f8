"""`dflash-bench stops` on the shipped pair: real processes, stopped under load."""

from dflash_serve.bench import stops
from dflash_serve.bench.options import StopsOptions


def test_servers_under_load_end_with_exit_code_0() -> None:
    result = stops.run(StopsOptions(stops=1, clients=6, drain_timeout=0.5, longest=1.0))
    assert result.failures == ()
    assert result.measured["exit_codes"] == {"0": 1}
    assert len(result.measured["stops"]) == 1
    assert stops.tables(result)[0].row_count == 5
