"""The trained pair of a hybrid family: real text, through layers whose state cannot be cut back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dflash_serve import LLM

PAIR = Path(__file__).parent.parent / "data" / "hybrid"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    # whatever it costs: how fast rounds are depends on what else this machine does
    with LLM(PAIR / "target", PAIR / "drafter", max_batch=3, speculation="always") as llm:
        yield llm


@pytest.fixture(scope="module")
def plain() -> Iterator[LLM]:
    with LLM(PAIR / "target", "none", max_batch=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Requests that neither the target nor the drafter was trained on, one of each kind."""
    lines = (PAIR / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_greedy_answers_are_those_of_plain_decoding_in_fewer_rounds(
    llm: LLM, plain: LLM, rows: list[dict[str, Any]]
) -> None:
    chats = [row["messages"] for row in rows]
    drafted = llm.chat(chats, temperature=0, max_tokens=160)
    expected = plain.chat(chats, temperature=0, max_tokens=160)
    assert [each.token_ids for each in drafted] == [each.token_ids for each in expected]
    tokens = sum(each.usage.completion_tokens for each in drafted)
    assert tokens > 4 * sum(each.usage.rounds for each in drafted)
    right = [each.text == row["answer"] for each, row in zip(drafted, rows, strict=True)]
    assert sum(right) > len(rows) / 2


def test_sampled_answers_are_those_of_plain_decoding(
    llm: LLM, plain: LLM, rows: list[dict[str, Any]]
) -> None:
    chats = [row["messages"] for row in rows[::2]]
    options: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95, "seed": 4, "max_tokens": 64}
    drafted = llm.chat(chats, **options)
    expected = plain.chat(chats, **options)
    assert [each.token_ids for each in drafted] == [each.token_ids for each in expected]
    greedy = llm.chat(chats, temperature=0, max_tokens=64)
    assert [each.token_ids for each in drafted] != [each.token_ids for each in greedy]
