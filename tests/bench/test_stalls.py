"""`dflash-bench stalls` on a tiny pair: a real server, its streams, and what disturbs them."""

import pytest

from dflash_serve.bench import stalls
from dflash_serve.bench.clients import Window, bodies, longest_gap
from dflash_serve.bench.options import StallsOptions
from tests.bench.conftest import Stored


def test_the_whole_command(stored: Stored) -> None:
    options = StallsOptions(
        target=str(stored.target),
        drafter=str(stored.drafter),
        streams=2,
        body_bytes=100_000,
        repeats=1,
        swaps=1,
        prompt=1500,
        quiet=0.2,
    )
    result = stalls.run(options)
    assert result.failures == ()
    measured = result.measured
    assert [row["statuses"] for row in measured["bodies"]] == [[400]] * 5
    assert [row["statuses"] for row in measured["swaps"]] == [[200]]
    assert any(row["during_ms"] > 0 for row in (*measured["bodies"], *measured["swaps"]))
    assert measured["short_behind_long"]["steps"] >= 1
    assert [table.row_count for table in stalls.tables(result)] == [6, 1]
    assert stalls.plot(result)


@pytest.mark.parametrize(
    ("window", "gap"),
    [((0.0, 1.0), 1.0), ((1.5, 1.6), 3.0), ((3.9, 4.1), 3.0), ((4.2, 4.4), 0.5), ((9, 10), 0.0)],
)
def test_a_gap_counts_where_it_falls_into_the_window(
    window: tuple[float, float], gap: float
) -> None:
    arrivals = [[0.0, 1.0, 4.0, 4.5], [4.0, 4.1], [], [7.0]]
    assert longest_gap(arrivals, Window(*window)) == gap


def test_a_wait_that_ends_in_a_disturbance_is_none_of_the_quiet_stretch_before() -> None:
    arrivals = [[0.0, 0.1, 0.3, 0.4, 0.9, 4.0, 4.1]]
    quiet, during = Window(0.2, 1.0), Window(1.0, 3.0)
    assert longest_gap(arrivals, quiet, inside=True) == 0.5
    assert longest_gap(arrivals, during) == pytest.approx(3.1)


def test_bodies_are_as_large_as_they_may_be_and_no_larger() -> None:
    size = 1_000_000
    made = {body.name: len(body.content) for body in bodies("m", size)}
    assert all(length <= size for length in made.values())
    assert sum(length > 0.9 * size for length in made.values()) == 4
