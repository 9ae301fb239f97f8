"""What is said of the answers that a drafter was trained on."""

from typing import Any

import pytest

from dflash_serve.training.data.origin import describe

MADE = {"target": "1a2b", "responses": "all by the target", "max_new": 512}
SAMPLING = {"temperature": 0.7, "top_p": 0.95, "top_k": 20, "seed": 3}


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (
            MADE | {"sampling": "greedy", "chat_template_kwargs": {"enable_thinking": False}},
            "greedy answers of the target to every turn, at most 512 tokens each, "
            "chat template with enable_thinking=false",
        ),
        (
            MADE | {"responses": "last by the target", "sampling": SAMPLING},
            "answers of the target to the last turn of each chat, sampled with "
            "temperature 0.7, top_p 0.95, top_k 20, seed 3, at most 512 tokens each",
        ),
        (
            {"target": "1a2b", "responses": "given", "chat_template_kwargs": {}},
            "responses that came with the prompts, not generated anew",
        ),
        (
            {"target": "1a2b", "format": "dflash-serve records"},
            "answers of the target as it served them, sampled as each request asked",
        ),
        ({"target": "1a2b"}, "answers of the target, greedy or sampled is unknown"),
        (
            {"target": "9f", "sampling": "greedy"},
            "greedy answers of another target (9f)",
        ),
        ({"sampling": "greedy"}, "greedy answers of another target (unknown)"),
    ],
)
def test_an_origin_says_how_answers_were_made(origin: dict[str, Any], words: str) -> None:
    assert describe(origin, target="1a2b") == words
