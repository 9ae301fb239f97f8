"""What requests cost, on the wire."""

from dflash_serve.engine.types import Usage
from dflash_serve.server.deltas import truncated
from dflash_serve.server.usage import meta_info, wire_usage


def test_drafts_beyond_a_stop_string_count_as_rejected() -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=20, rounds=4, drafted=28, accepted=15)
    wire = wire_usage([truncated(usage, 14)])
    assert wire.completion_tokens == 14
    assert wire.completion_tokens_details.accepted_prediction_tokens == 9
    assert wire.completion_tokens_details.rejected_prediction_tokens == 19
    assert truncated(usage, 1).accepted == 0


def test_usage_of_several_choices_counts_the_prompt_once() -> None:
    usages = [
        Usage(prompt_tokens=3, completion_tokens=9, rounds=4, decode_time=2.0),
        Usage(prompt_tokens=3, completion_tokens=21, rounds=4, decode_time=4.0),
    ]
    wire, meta = wire_usage(usages, reasoning_tokens=7), meta_info(usages, "d")
    assert (wire.prompt_tokens, wire.completion_tokens, wire.total_tokens) == (3, 30, 33)
    assert wire.completion_tokens_details.reasoning_tokens == 7
    assert meta.spec_accept_length == (8 + 20) / 8
    assert meta.tokens_per_second == (8 + 20) / 4.0


def test_no_usage_is_zero() -> None:
    assert wire_usage([]).total_tokens == 0
    assert meta_info([Usage()], None).spec_accept_length == 0.0
