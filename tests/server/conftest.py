"""A server for each module that asks for one.

It says the module's ``TEXT``; ``MARKUP`` and ``MAX_CONTEXT`` are the module's to choose too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import openai
import pytest

from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, make_app, saying, serving


@dataclass(frozen=True, slots=True)
class Served:
    """A running server, what is behind it, and a client of it."""

    engine: FakeEngine
    url: str
    http: httpx.Client


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tokenizer: ChatTokenizer) -> Iterator[Served]:
    module = request.module
    engine = FakeEngine(
        saying(tokenizer, module.TEXT), max_context=getattr(module, "MAX_CONTEXT", 512)
    )
    app = make_app(engine, tokenizer, markup=getattr(module, "MARKUP", None))
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield Served(engine, url, http)


@pytest.fixture
def engine(served: Served, request: pytest.FixtureRequest, tokenizer: ChatTokenizer) -> FakeEngine:
    """The server's engine, as if it were new."""
    served.engine.reset(saying(tokenizer, request.module.TEXT))
    return served.engine


@pytest.fixture
def http(served: Served, engine: FakeEngine) -> httpx.Client:
    return served.http


@pytest.fixture
def client(served: Served, engine: FakeEngine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="-", max_retries=0) as client:
        yield client
