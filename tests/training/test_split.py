"""Answers parted by conversation: what was recorded of chats of several turns never leaks."""

import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dflash_serve.measure.errors import DataError
from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.training.data.answers import Answer
from dflash_serve.training.data.records import read_records
from dflash_serve.training.data.split import Split, answer_marker, conversation_names, split
from tests.training.chat_target import PLAIN, THINKING, ids, write_chat_target
from tests.training.recorded import record

SYSTEM = {"role": "system", "content": "a b c"}
Turns = list[tuple[tuple[int, ...], tuple[int, ...]]]


def chat(
    tokenizer: ChatTokenizer, first: str, seed: int, options: Mapping[str, Any], turns: int = 4
) -> Turns:
    """Prompts and answers of one chat, each prompt with the whole history."""
    rng = random.Random(seed)
    messages, made = [SYSTEM, {"role": "user", "content": first}], []
    for _ in range(turns):
        answer = " ".join(rng.choices("abcdefghij", k=6))
        if not options.get("enable_thinking", True):
            text = answer
        else:
            text = f"<think> {answer[:3]} </think> {answer}"
        prompt = tokenizer.encode_chat(messages, options)
        made.append((prompt, tuple(ids(f"{text} <|im_end|>"))))
        messages += [
            {"role": "assistant", "content": text},
            {"role": "user", "content": " ".join(rng.choices("abcdefghij", k=3))},
        ]
    return made


def openings(count: int) -> list[str]:
    """Different first user turns; many begin alike, some are the whole beginning of another."""
    rng, found = random.Random(1), dict[str, None]()
    while len(found) < count:
        found[" ".join(rng.choices("abcdefghij", k=rng.randint(1, 4)))] = None
    return list(found)


@pytest.mark.parametrize(
    ("template", "options"),
    [(PLAIN, {}), (THINKING.replace("'user',", "'user', 'system',"), {}),
     (THINKING.replace("'user',", "'user', 'system',"), {"enable_thinking": False})],
    ids=["plain", "history without thinking", "thinking off"],
)  # fmt: skip
def test_no_held_out_answer_is_of_a_chat_that_was_trained_on(
    tmp_path: Path, template: str, options: Mapping[str, Any]
) -> None:
    """What a server recorded of 60 chats of four turns, read back and split."""
    target = write_chat_target(tmp_path / "target", template)
    tokenizer = ChatTokenizer.load(target)
    chats = [chat(tokenizer, first, seed, options) for seed, first in enumerate(openings(60))]
    turns = [turn for number in range(4) for turn in (chat[number] for chat in chats)]
    record(tmp_path / "kept", "t", turns)
    answers = read_records(tmp_path / "kept", "t", 999).answers
    parts = split("recorded", answers, answer_marker(target))
    of_parts = [
        {answer.row % 60 for answer in part.answers}
        for part in (parts.train, parts.choosing, parts.held)
    ]
    assert all(a.isdisjoint(b) for a, b in combinations(of_parts, 2))
    assert parts.held.conversations == len(of_parts[2]) >= 5
    assert len(parts.held.answers) == 4 * parts.held.conversations
    assert parts.conversations == 60


def answer(prompt: Sequence[int], said: Sequence[int] = (1, 2)) -> Answer:
    tokens = np.array([*prompt, *said], np.int32)
    return Answer(0, "", tokens, ((len(prompt), len(tokens)),))


def test_chats_with_the_same_first_user_turn_are_one_even_if_it_was_not_recorded(
    tmp_path: Path,
) -> None:
    target = write_chat_target(tmp_path / "target")
    tokenizer = ChatTokenizer.load(target)
    one, same, other = (
        chat(tokenizer, first, seed, {})[2:] for seed, first in enumerate(["d", "d", "d e"])
    )
    found = conversation_names(
        [answer(*turn) for turn in [*one, *same, *other]], answer_marker(target)
    )
    assert len(set(found[:4])) == len(set(found[4:])) == 1
    assert found[0] != found[4]


def test_the_marker_is_what_every_turn_keeps(tmp_path: Path) -> None:
    border = tuple(ids("<|im_end|> <|im_start|> assistant"))
    for name, template in (("plain", PLAIN), ("thinking", THINKING)):
        assert answer_marker(write_chat_target(tmp_path / name, template)) == border
    assert answer_marker(tmp_path) == ()


def test_without_a_template_a_prompt_belongs_to_what_it_begins_with() -> None:
    asked = [[5, 6], [5, 6, 1, 2, 9], [5, 6, 1, 2, 9, 1, 2, 4], [5, 7], [6, 5, 6]]
    names = conversation_names([answer(prompt) for prompt in asked], ())
    assert names[0] == names[1] == names[2]
    assert len(set(names)) == 3


def test_equal_prompts_stay_together_and_all_stay_where_they_are() -> None:
    rng = random.Random(2)
    prompts = [rng.sample(range(90), 5) for _ in range(200)] * 2
    few, many = (
        split("", [answer(prompt) for prompt in some], ()) for some in (prompts[:100], prompts)
    )
    for part in (many.train, many.choosing, many.held):
        assert len(part.answers) == 2 * part.conversations
    assert many.conversations == 200
    assert 20 < many.held.conversations < 60
    assert set(few.held.names) <= set(many.held.names)
    assert set(few.train.names) <= set(many.train.names)


def refusal(parts: Split, *, choosing: bool = True) -> str:
    with pytest.raises(DataError) as caught:
        parts.check(Path("kept"), choosing=choosing)
    return str(caught.value)


def test_chats_that_share_all_prefixes_cannot_be_held_out() -> None:
    marker = [7, 8]
    asked = [[1, 2, *marker, *range(20, 20 + n), *marker] for n in range(300)]
    text = refusal(split("recorded", [answer(prompt) for prompt in asked], marker))
    assert "kept holds 300 usable answers of 1 conversation" in text
    assert "same system prompt and first user turn" in text


def test_too_few_are_refused_by_number() -> None:
    made = split("recorded", [answer([n, n + 1]) for n in range(0, 100, 2)], ())
    text = refusal(made)
    assert "50 conversations" in text
    assert f"{made.held.conversations} are held out" in text
    assert "at least 20" in text
    assert "about 100" in text
