"""`dflash-bench start` on the shipped pair: real processes, no figure asserted."""

from dflash_serve.bench import startup
from dflash_serve.bench.options import StartOptions


def test_a_fresh_server_gives_its_first_token_after_it_is_healthy() -> None:
    result = startup.run(StartOptions(repeats=1))
    ready = result.measured["ready_seconds"]["repeats"]
    first = result.measured["first_token_seconds"]["repeats"]
    assert len(ready) == len(first) == 1
    assert 0 < ready[0] < first[0]
    assert result.measured["help_seconds"]["median"] > 0
    assert startup.tables(result)[0].row_count == 3
