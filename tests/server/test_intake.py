"""The model's defaults under a request's own parameters."""

from typing import Any

import pytest

from dflash_serve.engine.types import SamplingParams
from dflash_serve.server import intake
from dflash_serve.server.handling import Facts
from dflash_serve.server.settings import Settings
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, make_context, model_card, saying


@pytest.fixture
def context(tokenizer: ChatTokenizer) -> Any:
    def make(seed: int | None = 1, **card: Any) -> Facts:
        engine = FakeEngine(saying(tokenizer, "hello"))
        model = model_card(**card)
        return make_context(engine, tokenizer, Settings(seed=seed), model=model).facts

    return make


def test_the_models_defaults_fill_what_the_request_leaves_out(context: Any) -> None:
    defaults = SamplingParams(temperature=0.6, top_p=0.95, top_k=20, seed=1)
    here = context(sampling=defaults)
    assert intake.sampling(here) == defaults
    assert intake.sampling(here, temperature=1, top_k=-1) == SamplingParams(
        temperature=1.0, top_p=0.95, top_k=0, seed=1
    )
    assert intake.sampling(context()).temperature == 1.0


def test_a_temperature_next_to_zero_is_greedy(context: Any) -> None:
    assert intake.sampling(context(), temperature=1e-9).greedy
    assert not intake.sampling(context(), temperature=0.01).greedy


def test_a_seed_is_the_requests_or_the_servers_or_fresh(context: Any) -> None:
    assert intake.sampling(context(), seed=0).seed == 0
    assert intake.sampling(context(seed=7)).seed == 7
    fresh = {intake.sampling(context(seed=None)).seed for _ in range(8)}
    assert len(fresh) == 8
