"""What a server recorded (`dflash-serve --record`), as answers, split by prompt.

Reads files only. Lines are those of `server.recording`; a torn last line of a file is passed over.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dflash_serve.training.data import Answer, DataError

_HELD, _CHOOSING = 0.2, 0.1


@dataclass(frozen=True, slots=True)
class Records:
    """Answers with their prompts, in the order of recording.

    ``without_prompts`` counts requests of which only numbers were kept, ``of_others`` the files
    that were recorded with another target.
    """

    answers: list[Answer]
    without_prompts: int
    of_others: int


@dataclass(frozen=True, slots=True)
class Split:
    """Answers to train on, to choose the best weights by, and to judge by; no prompt in two."""

    train: list[Answer]
    choosing: list[Answer]
    held: list[Answer]


def read_records(directory: Path, target: str) -> Records:
    """All records in ``directory`` of the target with fingerprint ``target``.

    Raises:
        DataError: there are none, they are of another target, or a line is damaged.
    """
    paths = sorted(directory.glob("records-*.jsonl"))
    if not paths:
        raise DataError(f"{directory} holds no records-*.jsonl: was --record given another folder?")
    answers: list[Answer] = []
    without, others = 0, []
    for path in paths:
        (_, header), *rows = list(_rows(path)) or [(0, {})]
        if header.get("target") != target:
            others.append(str(header.get("target")))
            continue
        for number, row in rows:
            if "answer" in row:
                answers.append(_answer(path, number, row, len(answers)))
            else:
                without += 1
    if len(others) == len(paths):
        raise DataError(f"{directory} was recorded with target {others[0]}, but this is {target}")
    return Records(answers, without, len(others))


def split(answers: Sequence[Answer]) -> Split:
    """By a hash of each prompt: equal prompts stay together, and where they are as more come."""
    parts: tuple[list[Answer], list[Answer], list[Answer]] = ([], [], [])
    for answer in answers:
        share = int.from_bytes(_digest(answer)[:8]) / 2**64
        parts[2 if share < _HELD else 1 if share < _HELD + _CHOOSING else 0].append(answer)
    return Split(*parts)


def different_prompts(answers: Sequence[Answer]) -> int:
    return len({_digest(answer) for answer in answers})


def _digest(answer: Answer) -> bytes:
    (start, _), *_ = answer.spans
    return hashlib.sha256(answer.tokens[:start].tobytes()).digest()


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects; what follows the last line end was being written."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error} in a record") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is no record")
        yield number, row


def _answer(path: Path, number: int, row: dict[str, Any], index: int) -> Answer:
    try:
        prompt, answer = row["prompt"], row["answer"]
        tokens = np.array([*prompt, *answer], dtype=np.int32)
        return Answer(index, str(row["kind"]), tokens, ((len(prompt), len(tokens)),))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}, line {number}: {error!r} is no record") from error
