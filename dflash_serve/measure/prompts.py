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


def json_lines(path: Path) -> Iterator[RawRow]:
    """Every line that is not blank; one that is no JSON has a fault.

    Raises:
        DataError: the file cannot be read.
    """
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


def read_chats(path: Path) -> list[Chat]:
    """All prompts of a file of JSON lines, each up to its last user message.

    Answers given after that are left out: who measures asks for them. Rows without a kind are of
    the kind that the file is called.

    Raises:
        DataError: the file holds none, or naming the first line that is no prompt.
    """
    chats = []
    for raw in json_lines(path):
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
