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

from dflash_serve.training.data import DataError

Message = Mapping[str, str]

_ROLES = frozenset({"system", "user", "assistant"})


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
    """The first ``count`` in the order of ``shuffle``, all of them for None.

    Raises:
        DataError: no such order.
    """
    if shuffle not in SHUFFLES:
        raise DataError(f"--shuffle is {shuffle!r}, but must be one of {', '.join(SHUFFLES)}")
    order = SHUFFLES[shuffle](len(conversations))
    return [conversations[index] for index in order[:count]]


def read_prompt_file(path: Path) -> dict[str, list[Conversation]]:
    """Lines ``{"kind": ..., "messages": [..., {"role": "user", ...}]}``: a data set per kind.

    Lines without a kind belong to the data set named after the file. The last message is the turn
    to be answered; other keys are ignored.

    Raises:
        DataError: naming the line that is no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    sets: dict[str, list[Conversation]] = defaultdict(list)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            kind, messages = _messages(path, number, line)
            name = path.stem if kind is None else str(kind)
            *opening, last = messages
            row = len(sets[name])
            sets[name].append(Conversation(name, row, (last["content"],), tuple(opening)))
    if not sets:
        raise DataError(f"{path} holds no prompts")
    return dict(sets)


def _messages(path: Path, number: int, line: str) -> tuple[Any, list[Message]]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number} is not JSON: {error}") from error
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{path}, line {number} has no messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise DataError(f"{path}, line {number}: a message without a text as its content")
        if message.get("role") not in _ROLES:
            raise DataError(f"{path}, line {number}: a message of role {message.get('role')!r}")
    if messages[-1]["role"] != "user":
        raise DataError(f"{path}, line {number}: the last message is not the user's")
    told: list[Message] = [
        {"role": message["role"], "content": message["content"]} for message in messages
    ]
    return value.get("kind"), told
