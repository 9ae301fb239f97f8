"""What is asked: conversations of user turns, from data sets or from a file of one's own.

Knows no tokens and no models.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dflash_serve.measure.prompts import read_chats

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """User ``turns`` to be answered one after another, behind ``opening`` messages.

    ``row`` counts the rows of its data set from 0, in the order of the file.
    """

    dataset: str
    row: int
    turns: tuple[str, ...]
    opening: tuple[Message, ...] = ()

    @property
    def digest(self) -> str:
        """Changes when the text does."""
        text = json.dumps([self.opening, self.turns], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def messages(self, replies: Sequence[str]) -> list[Message]:
        """The prompt of turn ``len(replies)``: earlier turns with the run's own replies."""
        told: list[Message] = list(self.opening)
        for question, reply in zip(self.turns, replies, strict=False):
            told += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": reply},
            ]
        return [*told, {"role": "user", "content": self.turns[len(replies)]}]


def _random_42(count: int) -> list[int]:
    order = list(range(count))
    random.Random(42).shuffle(order)
    return order


def _datasets_0(count: int) -> list[int]:
    return [int(index) for index in np.random.default_rng(0).permutation(count)]


SHUFFLES: dict[str, Callable[[int], list[int]]] = {
    "random-42": _random_42,
    "datasets-0": _datasets_0,
    "none": lambda count: list(range(count)),
}
"""Orders of n rows. random-42: ``random.Random(42).shuffle`` over the indices, as z-lab's dflash
0.1.0; datasets-0: ``Dataset.shuffle(seed=0)`` of Hugging Face datasets, as z-lab's older script."""


def select(
    conversations: Sequence[Conversation], count: int | None, shuffle: str
) -> list[Conversation]:
    """The first ``count`` in the order of ``shuffle``, one of `SHUFFLES`; all of them for None."""
    order = SHUFFLES[shuffle](len(conversations))
    return [conversations[index] for index in order[:count]]


def read_prompt_file(path: Path) -> dict[str, list[Conversation]]:
    """The chats of `measure.prompts.read_chats`: a data set per kind.

    The last user message of each is the turn to be answered.
    """
    sets: dict[str, list[Conversation]] = defaultdict(list)
    for chat in read_chats(path):
        *opening, last = chat.messages
        row = len(sets[chat.kind])
        sets[chat.kind].append(Conversation(chat.kind, row, (last["content"],), tuple(opening)))
    return dict(sets)
