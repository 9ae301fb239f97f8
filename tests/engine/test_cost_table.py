"""What rounds cost: between measured points, beyond them, and as rounds that ran correct it."""

from itertools import pairwise

import pytest

from dflash_serve.engine.cost_table import CostPoint, CostTable

POINTS = (
    CostPoint(1, 1, 10.0),
    CostPoint(1, 8, 24.0),
    CostPoint(5, 1, 18.0),
    CostPoint(5, 8, 64.0),
)


@pytest.mark.parametrize(
    ("rows", "width", "seconds"),
    [
        (1, 1, 10.0),
        (5, 8, 64.0),
        (1, 4, 16.0),
        (3, 1, 14.0),
        (3, 8, 44.0),
        (9, 1, 26.0),
        (1, 16, 40.0),
    ],
)
def test_costs_are_linear_between_points_and_beyond(rows: int, width: int, seconds: float) -> None:
    assert CostTable(POINTS).seconds(rows, width) == pytest.approx(seconds)


def test_of_one_row_others_cost_what_as_many_tokens_cost() -> None:
    table = CostTable(POINTS[:2])
    assert table.seconds(4, 2) == pytest.approx(table.seconds(1, 8))


def test_more_rows_or_tokens_never_cost_less() -> None:
    """Whatever a noisy machine has measured."""
    table = CostTable(
        [
            CostPoint(1, 1, 10.0),
            CostPoint(1, 2, 9.0),
            CostPoint(1, 8, 9.5),
            CostPoint(4, 1, 8.0),
            CostPoint(4, 8, 30.0),
        ]
    )
    for rows in range(1, 9):
        costs = [table.seconds(rows, width) for width in range(1, 17)]
        assert all(less <= more for less, more in pairwise(costs))
    for width in range(1, 17):
        costs = [table.seconds(rows, width) for rows in range(1, 9)]
        assert all(less <= more for less, more in pairwise(costs))


def test_a_slower_machine_makes_all_rounds_dearer() -> None:
    table = CostTable(POINTS)
    for _ in range(20):
        table.observe(1, 1, 20.0)
    assert table.seconds(1, 1) == pytest.approx(20.0)
    assert table.seconds(5, 8) == pytest.approx(128.0)


def test_a_kind_that_was_measured_wrong_is_corrected_by_itself() -> None:
    table = CostTable(POINTS)
    for _ in range(20):
        table.observe(1, 1, 10.0)
        table.observe(1, 8, 48.0)
        table.observe(1, 1, 10.0)
    assert table.seconds(1, 1) == pytest.approx(10.0)
    assert table.seconds(1, 8) == pytest.approx(48.0)
    assert table.seconds(5, 8) == pytest.approx(64.0)


def test_one_slow_round_says_nothing() -> None:
    table = CostTable(POINTS)
    for _ in range(20):
        table.observe(1, 1, 10.0)
    table.observe(1, 1, 900.0)
    assert table.seconds(1, 1) == pytest.approx(10.0)


def test_rounds_whose_drafts_the_host_sees_have_costs_of_their_own() -> None:
    table = CostTable(POINTS)
    for _ in range(20):
        table.observe(1, 8, 24.0)
        table.observe(1, 8, 24.0)
        table.observe(1, 8, 60.0, guided=True)
    assert table.seconds(1, 8, guided=True) == pytest.approx(60.0)
    assert table.seconds(1, 8) == pytest.approx(24.0)


def test_a_table_needs_a_point() -> None:
    with pytest.raises(ValueError, match="needs a measured round"):
        CostTable([])


@pytest.mark.parametrize(
    ("rows", "width", "seconds"),
    [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0), (1, 1, float("inf")), (1, 1, float("nan"))],
)
def test_no_round_is_so(rows: int, width: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="a round of"):
        CostPoint(rows, width, seconds)
