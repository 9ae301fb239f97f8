"""What requests and their costs say of themselves."""

from dataclasses import replace

import pytest

from dflash_serve.engine.types import LogitRules, SamplingParams, ThinkingRule, Usage


@pytest.mark.parametrize(
    ("rules", "counts", "neutral"),
    [
        (LogitRules(), False, True),
        (LogitRules(bias=((3, 1.0),)), False, False),
        (LogitRules(min_tokens=1), False, False),
        (LogitRules(presence=-0.1), True, False),
        (LogitRules(frequency=0.1), True, False),
        (LogitRules(repetition=0.9), True, False),
    ],
)
def test_rules_know_whether_they_do_anything_and_whether_text_before_matters(
    rules: LogitRules, counts: bool, neutral: bool
) -> None:
    assert (rules.counts, rules.neutral) == (counts, neutral)


def test_only_a_temperature_of_0_is_greedy() -> None:
    assert SamplingParams(top_k=1).greedy
    assert not SamplingParams(1e-9).greedy


def test_reasoning_needs_an_end() -> None:
    with pytest.raises(ValueError, match="closing marker"):
        ThinkingRule(())


def test_rates_leave_out_the_first_token_which_is_the_prompts() -> None:
    usage = Usage(completion_tokens=21, rounds=8, decode_time=4.0)
    assert usage.tokens_per_round == 2.5
    assert usage.tokens_per_second == 5.0


def test_there_is_no_rate_of_nothing() -> None:
    assert Usage().tokens_per_round == Usage().tokens_per_second == 0.0
    assert replace(Usage(), completion_tokens=1).tokens_per_second == 0.0
