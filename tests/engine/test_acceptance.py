"""How many tokens a round is expected to commit, by what rounds before it accepted."""

import pytest

from dflash_serve.engine.acceptance import Acceptance

DEPTHS = 7


def after(accepted: int, rounds: int, row: int = 0) -> Acceptance:
    """Rounds of a full block that each accepted so many drafts."""
    made = Acceptance(DEPTHS)
    for _ in range(rounds):
        made.observe(row, DEPTHS + 1, accepted + 1)
    return made


@pytest.mark.parametrize("accepted", [0, 3, 7])
def test_a_row_is_expected_to_go_on_as_it_did(accepted: int) -> None:
    curve = after(accepted, 60).curve(0)
    assert len(curve) == DEPTHS + 1
    assert curve[0] == 1.0
    assert curve[-1] == pytest.approx(1 + accepted, abs=0.4)
    assert list(curve) == sorted(curve)


def test_a_new_row_begins_with_what_the_others_had() -> None:
    low, high = after(0, 60), after(7, 60)
    assert low.curve(9)[-1] < 1.2
    assert high.curve(9)[-1] > 7


def test_rows_are_told_apart() -> None:
    made = Acceptance(DEPTHS)
    for _ in range(30):
        made.observe(0, DEPTHS + 1, DEPTHS + 1)
        made.observe(1, DEPTHS + 1, 1)
    assert made.curve(0)[-1] > 6
    assert made.curve(1)[-1] < 2


def test_short_drafts_tell_of_longer_ones() -> None:
    """A row whose first drafts are right more often than others' is easier at all depths."""
    made = after(1, 60)
    before = made.curve(1)[-1]
    for _ in range(10):
        made.observe(1, 3, 3)
    assert made.curve(1)[-1] > before


def test_the_last_rounds_decide() -> None:
    made = after(7, 200)
    for _ in range(40):
        made.observe(0, DEPTHS + 1, 1)
    assert made.curve(0)[-1] < 2


def test_a_row_that_ended_leaves_its_rounds_to_the_others() -> None:
    made = after(7, 60)
    made.forget(0)
    assert made.curve(0) == made.curve(5)
