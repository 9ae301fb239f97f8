"""Prompts from JSON lines: the one reader of training, evaluation and benchmarks.

A row has any shape that `shapes` knows, and optionally a ``kind``. Knows no tokens and no models.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dflash_serve.measure.errors import DataError, RowError
from dflash_serve.measure.shapes import Chat, parse_chat
from dflash_serve.paths import not_a_file


@dataclass(frozen=True, slots=True)
class RawRow:
    """``row`` counts from 0 (for JSON lines: lines of the file). ``fault`` says why no value."""

    row: int
    place: str
    value: Any
    fault: RowError | None = None

    def chat(self) -> Chat:
        """The row as messages.

        Raises:
            RowError: it is none.
        """
        if self.fault is not None:
            raise self.fault
        return parse_chat(self.value)


def json_lines(path: Path, *, pipes: bool = False) -> Iterator[RawRow]:
    """Every line that is not blank; one that is no JSON has a fault.

    ``pipes``: the caller reads once, so that a pipe is as good as a file.

    Raises:
        DataError: the file cannot be read, or is none.
    """
    check_file(path, pipes=pipes)
    try:
        with path.open("rb") as file:
            for row, line in enumerate(file):
                place = f"line {row + 1}"
                if not line.strip():
                    continue
                try:
                    yield RawRow(row, place, json.loads(line))
                except UnicodeDecodeError:
                    yield RawRow(row, place, None, RowError("not UTF-8"))
                except (ValueError, RecursionError) as error:
                    yield RawRow(row, place, None, RowError("not JSON", str(error)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def check_file(path: Path, *, pipes: bool = False) -> None:
    """Refuse what is not a file; reading it may take for ever, or only go once.

    Raises:
        DataError: saying what it is.
    """
    kind = not_a_file(path)
    if kind == "a pipe" and not pipes:
        raise DataError(f"{path} is a pipe, but is read more than once: write it to a file first")
    if kind is not None and kind != "a pipe":
        raise DataError(f"{path} is {kind}, but must be a file")


def read_chats(path: Path) -> list[Chat]:
    """All prompts of a file of JSON lines, each up to its last user message.

    Answers given after that are left out: who measures asks for them. Rows without a kind are of
    the kind that the file is called. A pipe will do.

    Raises:
        DataError: the file holds none, or naming the first line that is no prompt.
    """
    chats = []
    for raw in json_lines(path, pipes=True):
        try:
            chat = raw.chat()
        except RowError as error:
            raise DataError(f"{path}, {raw.place}: {error}") from error
        last = max(at for at, one in enumerate(chat.messages) if one["role"] == "user")
        asked = chat.messages[: last + 1]
        chats.append(replace(chat, kind=chat.kind or path.stem, messages=asked))
    if not chats:
        raise DataError(f"{path} holds no prompts")
    return chats
