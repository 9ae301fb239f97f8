"""Prompts to measure with: the demo's held-out ones, those of a file, or random token ids.

Orders and samples depend on the seed alone.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dflash_serve.bench.errors import BenchError
from dflash_serve.compose.cards import stop_tokens
from dflash_serve.compose.directories import DEMO
from dflash_serve.measure.prompts import read_chats
from dflash_serve.measure.shapes import Chat
from dflash_serve.text.tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt as token ids, and the tokens that end its answer."""

    kind: str
    tokens: tuple[int, ...]
    stop_tokens: frozenset[int]


HELD_OUT = DEMO / "heldout.jsonl"
"""The demo's prompts that nothing was trained on."""
GENERIC = tuple(
    Chat("generic", ({"role": "user", "content": text},))
    for text in (
        "Hello! Who are you?",
        "Write a Python function that adds two numbers.",
        "Tell me a short story about a fox.",
        "What is 12 + 30?",
        "Sort these numbers: 9, 4, 7, 1.",
        "How many metres are 3 kilometres?",
        "List three colours as JSON.",
        "Explain what a hash table is.",
    )
)
"""For a server of which nothing is known, where no prompt file is given."""


def chats_of(path: Path | None, *, demo: bool = True) -> list[Chat]:
    """Of a file; without one the demo's held-out ones, where they are and suit, or `GENERIC`."""
    if path is None and not (demo and HELD_OUT.exists()):
        return list(GENERIC)
    return read_chats(path or HELD_OUT)


def pick(chats: Sequence[Chat], count: int, seed: int) -> list[Chat]:
    """``count`` prompts, the same number of each kind as far as it goes, in shuffled order."""
    shuffle = random.Random(seed).shuffle
    kinds: dict[str, list[Chat]] = defaultdict(list)
    for chat in chats:
        kinds[chat.kind].append(chat)
    for group in kinds.values():
        shuffle(group)
    picked: list[Chat] = []
    while len(picked) < count and any(kinds.values()):
        picked.extend(group.pop() for group in kinds.values() if group)
    del picked[count:]
    shuffle(picked)
    return picked


def encode(chats: Sequence[Chat], directory: Path) -> list[Prompt]:
    """Prompts by the target's own chat template; they end where a server's answers do."""
    try:
        tokenizer = ChatTokenizer.load(directory)
    except ValueError as error:
        raise BenchError(str(error)) from error
    stops = stop_tokens(directory)
    return [Prompt(chat.kind, tokenizer.encode_chat(chat.messages, {}), stops) for chat in chats]


def synthetic(count: int, length: int, vocab: int, seed: int) -> list[Prompt]:
    """Random ids, lengths from half of ``length`` to ``length``; nothing ends an answer."""
    rng = random.Random(seed)
    return [
        Prompt(
            "random",
            tuple(rng.randrange(vocab) for _ in range(rng.randint(max(1, length // 2), length))),
            frozenset(),
        )
        for _ in range(count)
    ]
