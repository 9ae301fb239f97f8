"""Answers parted by conversation: no part holds an answer of a chat that another part knows.

A chat sends its history with every turn, so its later prompts hold its earlier answers.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dflash_serve.measure.errors import DataError
from dflash_serve.text.errors import TemplateError
from dflash_serve.training.data.answers import Answer
from dflash_serve.training.data.example import Example
from dflash_serve.training.data.tokenizer import read_tokenizer

MIN_HELD, MIN_CHOOSING = 20, 10
"""Conversations that a decision needs: fewer say nothing about those to come."""
_HELD, _CHOOSING = 0.2, 0.1
_HELD_OUT, _TO_CHOOSE = "held out", "to choose by"
_TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True)
class Subset:
    """Answers, and the name of the conversation that each is from."""

    answers: list[Answer]
    names: list[bytes]

    @staticmethod
    def of(answers: Sequence[Answer], marker: Sequence[int]) -> "Subset":
        """``marker`` is what `answer_marker` finds for the target that answered."""
        return Subset(list(answers), conversation_names(answers, marker))

    @property
    def conversations(self) -> int:
        return len(set(self.names))

    @property
    def shares(self) -> dict[bytes, float]:
        """The conversations by a hash of their names, 0 to 1: shuffled alike wherever they are."""
        hashes = {name: hashlib.sha256(name).digest() for name in self.names}
        order = sorted(hashes, key=lambda name: hashes[name])
        return {name: int.from_bytes(hashes[name][:8]) / 2**64 for name in order}

    def divided(self, chosen: Iterable[bytes]) -> "tuple[Subset, Subset]":
        """The answers of the ``chosen`` conversations, and the others."""
        found, inside = (Subset([], []), Subset([], [])), set(chosen)
        for answer, name in zip(self.answers, self.names, strict=True):
            part = found[name not in inside]
            part.answers.append(answer)
            part.names.append(name)
        return found

    def turns(self) -> "list[tuple[Example, bytes]]":
        """One example per answer, and the name of its conversation."""
        pairs = zip(self.answers, self.names, strict=True)
        return [(turn, name) for answer, name in pairs for turn in answer.turns()]


def counted(answers: int, conversations: int) -> str:
    """For a refusal: how many there are of both, and what a conversation is."""
    what = "those with the same system prompt and first user turn are one"
    plural = "" if conversations == 1 else "s"
    return f"{answers} usable answers of {conversations} conversation{plural} ({what})"


@dataclass(frozen=True, slots=True)
class Split:
    """Answers of one kind: to train on, to choose the best weights by, and to judge by."""

    kind: str
    train: Subset
    choosing: Subset
    held: Subset

    @property
    def conversations(self) -> int:
        return sum(part.conversations for part in self._parts.values())

    def __str__(self) -> str:
        parts = ", ".join(
            f"{len(part.answers)} {use} ({part.conversations})" for use, part in self._parts.items()
        )
        return f"{self.kind} answers (conversations): {parts}"

    def as_json(self) -> dict[str, Any]:
        return {
            use: {"answers": len(part.answers), "conversations": part.conversations}
            for use, part in self._parts.items()
        }

    def check(self, source: Path, *, choosing: bool) -> None:
        """Refuse a split that no decision can be based on; ``choosing``: nor a choice of weights.

        Raises:
            DataError: with the numbers.
        """
        wanted = [(_HELD_OUT, MIN_HELD), *([(_TO_CHOOSE, MIN_CHOOSING)] if choosing else [])]
        for use, least in wanted:
            found = self._parts[use].conversations
            if found < least:
                answers = sum(len(part.answers) for part in self._parts.values())
                raise DataError(
                    f"{source} holds {counted(answers, self.conversations)}, of which {found} are "
                    f"{use}: a decision needs at least {least} of them, so about "
                    f"{round(MIN_HELD / _HELD)} in all"
                )

    @property
    def _parts(self) -> dict[str, Subset]:
        return {"to learn from": self.train, _TO_CHOOSE: self.choosing, _HELD_OUT: self.held}


def split(kind: str, answers: Sequence[Answer], marker: Sequence[int]) -> Split:
    """By a hash of each conversation's name: chats stay whole, and where they are as more come."""
    whole = Subset.of(answers, marker)
    shares = whole.shares
    held, rest = whole.divided([name for name in shares if shares[name] < _HELD])
    limit = _HELD + _CHOOSING
    choosing, train = rest.divided([name for name in shares if shares[name] < limit])
    return Split(kind, train, choosing, held)


def mixed(splits: Sequence[Split], share: float, seed: int) -> list[Answer]:
    """The training answers of the first split, and of the second so many that they are ``share``.

    Nothing is chosen by the second one, so its part for that is learnt from, too.
    """
    train = list(splits[0].train.answers)
    wanted = round(len(train) * share / (1 - share))
    for other in splits[1:]:
        old = other.train.answers + other.choosing.answers
        order = np.random.default_rng(seed).permutation(len(old))
        train += [old[index] for index in order[:wanted]]
    return train


def conversation_names(answers: Sequence[Answer], marker: Sequence[int]) -> list[bytes]:
    """For each answer the tokens that all prompts of its conversation begin with.

    Prompts are of one conversation if they are equal up to the first answer in them: system prompt
    and first user turn. Prompts without ``marker`` are of one conversation if one begins with
    another.
    """
    encoded = _encoded(marker)
    openings = [_opening(answer, encoded) for answer in answers]
    names: dict[bytes, bytes] = {}
    name = b""
    for opening in sorted(set(openings)):  # what begins with an opening follows it directly
        if not name or not opening.startswith(name):
            name = opening
        names[opening] = name
    return [names[opening] for opening in openings]


def answer_marker(target: Path) -> tuple[int, ...]:
    """The tokens that the chat template of ``target`` puts between a user turn and its answer.

    Only those that stay when the chat goes on: an empty thinking block, say, may not. () without a
    tokenizer or a chat template.
    """
    if not (target / "tokenizer_config.json").exists():
        return ()
    one, other = ({"role": "user", "content": content} for content in "ab")
    tokenizer = read_tokenizer(target)
    try:
        prompt = tokenizer.encode_chat([one], {})
        changed = tokenizer.encode_chat([other], {})
        later = tokenizer.encode_chat([one, {"role": "assistant", "content": "c"}, other], {})
    except TemplateError:
        return ()
    begin = len(prompt) - _common(prompt[::-1], changed[::-1])
    return prompt[begin : _common(prompt, later)]


def _opening(answer: Answer, marker: bytes) -> bytes:
    """The prompt up to its first answer, the marker included; all of it without a marker."""
    prompt = _encoded(answer.tokens[: answer.spans[0][0]])
    at = prompt.find(marker) if marker else -1
    while at % _TOKEN_BYTES and at >= 0:
        at = prompt.find(marker, at + 1)
    return prompt if at < 0 else prompt[: at + len(marker)]


def _encoded(tokens: npt.ArrayLike) -> bytes:
    return np.asarray(tokens, dtype=">i4").tobytes()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
