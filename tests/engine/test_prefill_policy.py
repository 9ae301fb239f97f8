"""Whose tokens share a chunk, and how large it is: rows and clocks made by hand."""

from collections.abc import Callable

import pytest

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.prefill_policy import ChunkBudget, PrefillTurns
from dflash_serve.engine.sequence import Sequence
from dflash_serve.engine.types import EngineRequest


def row(prompt: int, missed: int = 0) -> Sequence:
    """A row whose prompt is to be read, or that holds ``missed`` tokens unknown to a drafter."""
    made = Sequence(EngineRequest(str(prompt), tuple(range(prompt)), 5), 5, 0.0)
    made.missed_to = missed
    return made


def lengths(picked: tuple[list[Sequence], int]) -> list[int]:
    rows, width = picked
    return [len(one.due[:width]) for one in rows]


def test_the_shortest_goes_first_and_the_oldest_gets_every_other_chunk() -> None:
    turns = PrefillTurns()
    rows = [row(3000), row(2000), row(900)]
    picked = [turns.pick(rows, 512)[0][0] for _ in range(4)]
    assert picked == [rows[2], rows[0], rows[2], rows[0]]


def test_rows_share_a_chunk_while_their_padded_length_fits() -> None:
    rows = [row(3000), row(30), row(10), row(150), row(170), row(171)]
    assert lengths(PrefillTurns().pick(rows, 512)) == [10, 30, 150]
    assert lengths(PrefillTurns().pick(rows, 1024)) == [10, 30, 150, 170, 171]


def test_the_oldest_shares_its_chunk_where_there_is_room() -> None:
    turns = PrefillTurns()
    rows = [row(200), *(row(90) for _ in range(5))]
    assert lengths(turns.pick(rows, 500)) == [90] * 5
    assert lengths(turns.pick([rows[0], row(80), row(90), row(100)], 500)) == [200, 80]


def test_a_row_that_fits_no_chunk_gets_all_of_it() -> None:
    assert lengths(PrefillTurns().pick([row(3000)], 512)) == [512]
    assert PrefillTurns().pick([], 512) == ([], 0)


def test_prompts_and_what_a_new_drafter_has_missed_never_share_a_chunk() -> None:
    turns = PrefillTurns()
    shown, prompt = row(5, missed=40), row(50)
    assert turns.pick([shown, prompt], 512) == ([shown], 40)
    assert turns.pick([prompt, shown], 512) == ([shown], 40)
    assert turns.pick([prompt, shown], 512) == ([prompt], 50)


def test_nobody_waits_for_ever_beside_a_stream_of_shorter_ones() -> None:
    turns = PrefillTurns()
    long = [row(2000), row(1000)]
    chunks = 0
    while any(one.due for one in long):
        picked, width = turns.pick([*long, row(5)], 64)
        for one in picked:
            one.hold(len(one.due[:width]))
        chunks += 1
    assert chunks <= 2 * (2000 + 1000) / 64 + 2


def budget(**limits: float) -> ChunkBudget:
    return ChunkBudget(EngineConfig(**{"prefill_chunk": 512, "max_stall": 0.25} | limits))


def settled(
    made: ChunkBudget, seconds: Callable[[int], float], decoding: int = 4, steps: int = 40
) -> list[int]:
    """Chunks of steps that take ``seconds(tokens)``."""
    chunks = []
    for _ in range(steps):
        tokens = made.tokens(decoding, decoding + 2)
        made.observe(seconds(tokens), tokens, decoding)
        chunks.append(tokens)
    return chunks


@pytest.mark.parametrize("round_seconds", [0.0, 0.05, 0.15])
@pytest.mark.parametrize("token_seconds", [0.0002, 0.0005, 0.001, 0.004])
@pytest.mark.parametrize("rounds_seen", [False, True])
def test_steps_come_to_take_the_stall_target_at_most(
    round_seconds: float, token_seconds: float, rounds_seen: bool
) -> None:
    made = budget()
    if rounds_seen:
        made.observe(round_seconds, 0, 4)
    chunks = settled(made, lambda tokens: round_seconds + tokens * token_seconds)
    affordable = (0.25 - round_seconds) / token_seconds
    assert all(64 <= chunk <= 512 for chunk in chunks)
    assert chunks[0] == 64, "until a token's cost is known"
    assert max(chunks[5:]) <= max(64, affordable)
    assert chunks[-1] >= min(512, affordable - 2 * 64), "no smaller than it has to be"
    if rounds_seen:
        assert chunks[-1] == chunks[5], "found at once"


def test_chunks_shrink_as_tokens_cost_more() -> None:
    """Attention over what is held grows with every chunk."""
    made = budget()
    held = 0
    slowest = 0.0
    for step in range(100):
        tokens = made.tokens(2, 3)
        seconds = 0.02 + tokens * (0.0003 + 5e-8 * held)
        made.observe(seconds, tokens, 2)
        held += tokens
        slowest = max(slowest, seconds if step > 2 else 0.0)
    assert held > 10_000
    assert slowest <= 0.25 * 1.1


def test_a_row_that_is_alone_gets_the_largest_chunk() -> None:
    made = budget()
    settled(made, lambda tokens: tokens * 0.01)
    assert made.tokens(0, 1) == 512
    assert made.tokens(0, 2) == 64
    assert made.tokens(1, 2) == 64


@pytest.mark.parametrize("round_seconds", [0.01, 0.15, 0.22])
def test_what_a_new_drafter_is_shown_adds_little_to_a_step(round_seconds: float) -> None:
    made = budget()
    made.observe(round_seconds, 0, 4)
    settled(made, lambda tokens: round_seconds + tokens * 0.0004)
    usual, swapped = made.tokens(4, 6), made.tokens(4, 6, swapped=True)
    assert 64 <= swapped == min(usual, 192)
    assert 192 * 0.0004 <= 0.08


def test_one_slow_step_is_forgotten() -> None:
    """A graph that was compiled, a machine that slept."""
    made = budget()
    made.observe(0.9, 0, 1)
    settled(made, lambda tokens: 0.03 + tokens * 0.0004, 1, 3)
    made.observe(5.0, 64, 1)
    assert made.tokens(1, 2) == 64
    assert settled(made, lambda tokens: 0.03 + tokens * 0.0004, 1)[-1] == 512


def test_chunks_too_small_to_tell_a_tokens_cost_are_not_learned_from() -> None:
    made = budget()
    settled(made, lambda tokens: 0.01 + tokens * 0.0004, 1)
    before = made.tokens(1, 2)
    for _ in range(20):
        made.observe(0.05, 10, 1)
    assert made.tokens(1, 2) == before


def test_a_clock_that_stands_still_is_no_reason_for_small_chunks() -> None:
    made = budget()
    made.observe(0.0, 100, 3)
    assert made.tokens(3, 5) == 512


def test_a_chunk_option_below_the_least_is_kept_to() -> None:
    made = budget(prefill_chunk=24)
    assert made.tokens(3, 5) == 24
    assert settled(made, lambda tokens: tokens * 1.0)[-1] == 24
