"""Each figure has one definition, written out by hand here."""

import pytest

from dflash_serve.measure.figures import (
    Acceptance,
    RoundCount,
    Speed,
    percentile,
    speedup_decode,
    speedup_end_to_end,
    time_per_output_token,
)


def test_per_response_is_not_pooled_and_answers_without_rounds_do_not_count() -> None:
    long, short, none = RoundCount(4, 4), RoundCount(6, 1), RoundCount(0, 0)
    found = Acceptance.of([long, short, none])
    assert found.tokens_per_round == (1 + 6) / 2
    assert found.tokens_per_round_pooled == (4 + 6) / 5
    assert (found.responses, found.rounds) == (2, 5)
    assert Acceptance.of([none]).tokens_per_round == 0.0


def test_shares_of_responses_are_above_three_and_five_not_at_them() -> None:
    found = Acceptance.of([RoundCount(mean, 1) for mean in (3, 4, 5, 6)])
    assert (found.share_above_3, found.share_above_5) == (3 / 4, 1 / 4)


def test_sums_of_processes_give_the_figures_of_all_responses() -> None:
    counts = [RoundCount(4, 4), RoundCount(6, 1), RoundCount(9, 2)]
    parts = [Acceptance.of(counts[rank::2]).sums() for rank in range(2)]
    together = Acceptance(*(sum(values) for values in zip(*parts, strict=True)))
    assert together.as_json() == Acceptance.of(counts).as_json()


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 5), (51, 6), (90, 9), (99, 10), (100, 10)]
)
def test_a_percentile_is_the_nearest_rank(percent: int, expected: float) -> None:
    """Of ten values, five reach half; the fifth is the median's rank, not the sixth."""
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent) == expected


def test_a_percentile_of_little() -> None:
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) == 0.0


def test_decoding_leaves_the_prompt_out_and_end_to_end_does_not() -> None:
    plain, drafted = Speed(10, 4.0, 0.3), Speed(10, 2.0, 0.1)
    assert speedup_decode(drafted, plain) == pytest.approx(3.0)
    assert speedup_end_to_end(drafted, plain) == pytest.approx(2.0)
    assert speedup_decode(Speed(10, 2.0, None), plain) is None


def test_time_per_token_is_the_mean_over_responses_and_unknown_if_one_is() -> None:
    assert time_per_output_token([(1.0, 10), (2.0, 5), (9.0, 0)]) == pytest.approx((0.1 + 0.4) / 2)
    assert time_per_output_token([(1.0, 10), (None, 5)]) is None
