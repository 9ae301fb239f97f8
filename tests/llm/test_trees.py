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
        llm.chat([{"role": "user", "content": prompt}], temperature=temperature, seed=3)
        for temperature in (0, 0.9)
        for prompt in PROMPTS
    ]
    return [answer.text for answer in answers], sum(answer.usage.rounds for answer in answers)


@pytest.mark.parametrize("second", ["none", "auto"])
def test_trees_give_the_text_of_plain_decoding(second: str) -> None:
    with LLM(drafter="none") as plain:
        want, _ = texts(plain)
    drafter = str(DEMO / "drafter-v1")  # it is wrong more often than the shipped one
    with LLM(drafter=drafter, speculation="always") as chains:
        got, most = texts(chains)
        assert got == want
    with LLM(drafter=drafter, second_drafter=second, tree="16", speculation="always") as trees:
        got, rounds = texts(trees)
        assert got == want
        assert rounds < most
