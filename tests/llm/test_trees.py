"""The demo pair with trees and with its second drafter: the same texts, fewer rounds."""

import pytest

from dflash_serve import LLM
from dflash_serve.compose.directories import DEMO

PROMPTS = (
    "Write a Python function that reverses a string.",
    "Tell me a story about a cat.",
    "Sort these numbers: 8, 3, 11, 5.",
    "What is 17 + 25?",
)


def texts(llm: LLM) -> tuple[list[str], int]:
    """Greedy and sampled answers, and the rounds that they took."""
    answers = [
        llm.chat(
            [{"role": "user", "content": prompt}], temperature=temperature, seed=3, max_tokens=64
        )
        for temperature, prompts in ((0, PROMPTS[:2]), (0.9, PROMPTS))
        for prompt in prompts
    ]
    return [answer.text for answer in answers], sum(answer.usage.rounds for answer in answers)


DRAFTER = str(DEMO / "drafter-v1")
"""It is wrong more often than the shipped one."""


@pytest.fixture(scope="module")
def chains() -> tuple[list[str], int]:
    """Texts that plain decoding gives, too, and the rounds that chains of drafts take."""
    with LLM(drafter="none") as plain:
        want, _ = texts(plain)
    with LLM(drafter=DRAFTER, speculation="always") as chains:
        got, rounds = texts(chains)
    assert got == want
    return got, rounds


@pytest.mark.parametrize("second", ["none", "auto"])
def test_trees_give_the_text_of_plain_decoding(chains: tuple[list[str], int], second: str) -> None:
    want, most = chains
    with LLM(drafter=DRAFTER, second_drafter=second, tree="16", speculation="always") as trees:
        got, rounds = texts(trees)
        assert got == want
        assert rounds < most
