"""Requests and usage in, engine terms and wire numbers out."""

from typing import Any

import pytest

from dflash_serve.engine.types import SamplingParams, Usage
from dflash_serve.server import translate
from dflash_serve.server.errors import ApiError
from dflash_serve.server.protocol.chat import ChatRequest
from tests.fakes import model_card

PROMPT = tuple(range(12))


def request(**fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "hi"}]
    return ChatRequest.model_validate({"model": "fake/model", "messages": messages} | fields)


def engine_requests(card: dict[str, Any] | None = None, seed: int = 0, **fields: Any) -> list[Any]:
    model = model_card(**(card or {}))
    return translate.engine_requests(request(**fields), "id", PROMPT, model, seed)


def test_without_max_tokens_the_context_is_the_limit() -> None:
    assert engine_requests()[0].max_tokens == 512 - 12


def test_max_tokens_beyond_the_context_end_there() -> None:
    assert engine_requests(max_tokens=511)[0].max_tokens == 500
    assert engine_requests(max_completion_tokens=7, max_tokens=7)[0].max_tokens == 7


@pytest.mark.parametrize("room", [11, 12])
def test_a_prompt_without_room_for_an_answer(room: int) -> None:
    with pytest.raises(ApiError, match=f"12 tokens long.*{room} tokens") as caught:
        engine_requests({"max_context": room})
    assert caught.value.code == "context_length_exceeded"


def test_choices_have_ids_and_seeds_of_their_own() -> None:
    requests = engine_requests(n=3, seed=2**63 - 1)
    assert [one.id for one in requests] == ["id-0", "id-1", "id-2"]
    assert [one.sampling.seed for one in requests] == [2**63 - 1, -(2**63), -(2**63) + 1]


def test_the_models_defaults_fill_what_the_request_leaves_out() -> None:
    card = {"sampling": SamplingParams(temperature=0.6, top_p=0.95, top_k=20)}
    sampling = engine_requests(card, temperature=1, top_k=-1)[0].sampling
    assert sampling == SamplingParams(temperature=1.0, top_p=0.95, top_k=0)
    assert engine_requests(card)[0].sampling == card["sampling"]
    assert engine_requests()[0].sampling.temperature == 1.0


def test_a_temperature_next_to_zero_is_greedy() -> None:
    assert engine_requests(temperature=1e-9)[0].sampling.greedy
    assert not engine_requests(temperature=0.01)[0].sampling.greedy


def test_stop_tokens_come_from_the_model() -> None:
    assert engine_requests({"stop_tokens": frozenset({5})})[0].stop_tokens == {5}


def test_drafts_beyond_a_stop_string_count_as_rejected() -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=20, rounds=4, drafted=28, accepted=15)
    cut = translate.truncated(usage, 14)
    wire = translate.wire_usage([cut])
    assert wire.completion_tokens == 14
    assert wire.completion_tokens_details.accepted_prediction_tokens == 9
    assert wire.completion_tokens_details.rejected_prediction_tokens == 19
    assert translate.truncated(usage, 1).accepted == 0


def test_usage_of_several_choices_counts_the_prompt_once() -> None:
    usages = [
        Usage(prompt_tokens=3, completion_tokens=9, rounds=4, decode_time=2.0),
        Usage(prompt_tokens=3, completion_tokens=21, rounds=4, decode_time=4.0),
    ]
    wire, meta = translate.wire_usage(usages), translate.meta_info(usages, "d")
    assert (wire.prompt_tokens, wire.completion_tokens, wire.total_tokens) == (3, 30, 33)
    assert meta.spec_accept_length == (8 + 20) / 8
    assert meta.tokens_per_second == (8 + 20) / 4.0


def test_no_usage_is_zero() -> None:
    assert translate.wire_usage([]).total_tokens == 0
    assert translate.meta_info([Usage()], None).spec_accept_length == 0.0
