"""The demo pair, loaded once for the tests that only ask it something."""

from collections.abc import Iterator

import pytest

from dflash_serve import LLM


@pytest.fixture(scope="package")
def llm() -> Iterator[LLM]:
    with LLM(max_batch=4, speculation="always") as llm:
        yield llm
