"""How many tokens are verified for a row: table by table."""

import pytest

from dflash_serve.engine.block_policy import choose_block
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.sequence import Sequence
from dflash_serve.engine.types import EngineRequest


def row(remaining: int = 100, **state: int | bool) -> Sequence:
    made = Sequence(EngineRequest("a", (1, 2, 3), remaining), remaining, 0.0)
    for name, value in state.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("verify_tokens", "rows", "block"),
    [(0, 1, 16), (0, 64, 16), (64, 1, 16), (64, 4, 16), (64, 5, 8), (64, 9, 4), (64, 65, 1)],
)
def test_rows_share_the_bound_on_verified_tokens_in_powers_of_two(
    verify_tokens: int, rows: int, block: int
) -> None:
    config = EngineConfig(block_size=16, verify_tokens=verify_tokens)
    assert choose_block(row(), rows, config) == block


@pytest.mark.parametrize(("remaining", "block"), [(100, 16), (16, 16), (5, 5), (1, 1), (0, 1)])
def test_no_block_is_longer_than_what_may_still_be_generated(remaining: int, block: int) -> None:
    assert choose_block(row(remaining), 1, EngineConfig(block_size=16)) == block


@pytest.mark.parametrize(
    ("state", "block"), [({"missed_to": 1}, 1), ({"drafts": False}, 1), ({}, 16)]
)
def test_a_row_that_its_drafter_does_not_know_whole_decodes_plainly(
    state: dict[str, int | bool], block: int
) -> None:
    assert choose_block(row(**state), 1, EngineConfig(block_size=16)) == block
