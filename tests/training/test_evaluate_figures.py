"""The arithmetic of an evaluation, on rounds written out by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dflash_serve.measure.figures import Round, busy_seconds, histogram, slots
from dflash_serve.measure.intervals import Interval
from dflash_serve.training.evaluate.figures import figures
from dflash_serve.training.evaluate.records import Decoded, Response


def response(
    rounds: Sequence[Round],
    seconds: tuple[float, float, float] = (0.0, 1.0, 1.0),
    plain: tuple[float, float, float] | None = None,
    same: bool | None = None,
    row: int = 0,
) -> Response:
    """``seconds`` and ``plain`` are (started, ended, decoding)."""
    tokens = 1 + sum(one.committed for one in rounds)
    told = None
    if plain is not None:
        told = Decoded.of_rounds(tokens, plain[:2], plain[2], []).without_rounds()
    made = Decoded.of_rounds(tokens, seconds[:2], seconds[2], rounds)
    return Response("set", row, "d", 0, "text", made, told, same)


def full(accepted: int, block: int = 4) -> Round:
    return Round(block - 1, accepted, accepted + 1)


def test_per_response_is_not_pooled() -> None:
    long = response([full(0), full(0), full(0), full(0)])  # 1 per round
    short = response([full(3)], row=1)  # 4 per round
    drafting = figures([long, short], 4).drafting
    assert drafting.tokens_per_round == pytest.approx((1 + 4) / 2)
    assert drafting.tokens_per_round_interval == Interval(1.0, 4.0)
    assert drafting.tokens_per_round_pooled == pytest.approx((4 + 4) / 5)
    assert drafting.rounds == 5
    assert drafting.accepted_per_generated == pytest.approx(3 / (5 + 5))
    assert drafting.accepted_per_proposed == pytest.approx(3 / 15)


def test_a_response_that_ended_with_its_first_token_has_no_rounds_to_count() -> None:
    drafting = figures([response([]), response([full(2)], row=1)], 4).drafting
    assert drafting.tokens_per_round == 3
    assert drafting.tokens_per_round_pooled == 3


def test_the_histogram_counts_committed_tokens() -> None:
    assert histogram([1, 4, 4, 2], 4) == [0, 1, 1, 0, 2]


def test_acceptance_by_slot() -> None:
    rounds = [full(3), full(1), full(0), Round(1, 1, 2)]  # the last had one slot only
    first, second, third = slots(rounds, 4)
    assert (first.proposed, first.share, first.conditional) == (4, 3 / 4, 3 / 4)
    # slot 2: three rounds had it, one took it; of two rounds that got that far, one
    assert (second.proposed, second.share, second.conditional) == (3, 1 / 3, 1 / 2)
    assert (third.proposed, third.share, third.conditional) == (3, 1 / 3, 1.0)


def test_slots_behind_a_stop_token_were_not_judged() -> None:
    stopped = Round(3, 1, 1)  # the first draft was the stop token
    first, second, third = slots([stopped, full(2)], 4)
    assert (first.share, first.conditional) == (1.0, 1.0)
    assert (second.share, second.conditional) == (1 / 2, 1.0)
    assert (third.share, third.conditional) == (0.0, 0.0)
    assert slots([stopped], 4)[1].conditional is None


def test_overlapping_spans_count_once_and_gaps_not_at_all() -> None:
    assert busy_seconds([(10.0, 12.0), (0.0, 2.0), (1.0, 3.0), (1.0, 1.5)]) == 5.0
    assert busy_seconds([]) == 0.0


def test_the_decode_speedup_is_of_means_and_end_to_end_is_of_wall_clock() -> None:
    one = response([full(3)], (0.0, 1.0, 0.5), (1.0, 4.0, 2.0), same=True)  # 5 tokens
    two = response([full(3)], (4.0, 6.0, 1.0), (6.0, 12.0, 2.5), same=False, row=1)
    found = figures([one, two], 4)
    assert found.speedup_decode == pytest.approx(((2.0 + 2.5) / 5) / ((0.5 + 1.0) / 5))
    assert found.speedup_end_to_end == pytest.approx((3.0 + 6.0) / (1.0 + 2.0))
    assert found.speculative.tokens_per_second == pytest.approx(10 / 3)
    assert (found.compared, found.differing) == (2, 1)


def test_speedups_leave_out_turns_without_a_plain_answer() -> None:
    one = response([full(3)], (0.0, 1.0, 0.5), (1.0, 4.0, 2.0), same=True)
    alone = response([full(0)], (10.0, 90.0, 80.0), row=1)
    found = figures([one, alone], 4)
    assert found.speedup_decode == pytest.approx(4.0)
    assert found.speedup_end_to_end == pytest.approx(3.0)
    assert found.speculative.wall_seconds == pytest.approx(81.0)


def test_what_is_not_told_is_not_invented() -> None:
    known = response([full(3)])
    silent = replace(known, row=1, speculative=Decoded(5, 0.0, 1.0))
    for responses in ([silent], [known, silent]):
        found = figures(responses, None)
        assert found.drafting.tokens_per_round is None
        assert found.drafting.tokens_per_round_pooled is None
        assert found.drafting.histogram is None
        assert found.drafting.accepted_per_proposed is None
        assert found.speedup_decode is None
        assert found.speculative.time_per_output_token is None
    assert found.speculative.tokens_per_second == pytest.approx(10.0)


def test_lengths_without_rounds_give_rates_but_no_slots() -> None:
    """As a server tells them: passes and tokens per pass."""
    one = replace(response([]), speculative=Decoded(9, 0, 1, tokens_per_round=4.0, passes=2))
    two = replace(one, row=1, speculative=Decoded(5, 1, 2, tokens_per_round=1.0, passes=4))
    drafting = figures([one, two], None).drafting
    assert drafting.tokens_per_round == pytest.approx(2.5)
    assert drafting.tokens_per_round_pooled == pytest.approx((8 + 4) / 6)
    assert drafting.slots is None
    assert drafting.accepted_per_generated is None
