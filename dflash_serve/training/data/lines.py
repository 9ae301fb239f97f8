"""JSON lines behind a first line of facts, appended as they are made and continued by the same.

Knows no tokens and no responses.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dflash_serve.atomic_files import WriteError, append_text
from dflash_serve.measure.errors import DataError
from dflash_serve.measure.prompts import json_lines
from dflash_serve.training.data.origin import describe_changes

Row = dict[str, Any]


class LinesFile:
    """Owner of the file while open. ``facts`` are the first line, or there ``under`` a name.

    Raises:
        DataError: the file exists but was made with other facts, with both values; a line of it
            cannot be read; or it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        facts: Mapping[str, Any],
        take: Callable[[int, Row], None],
        under: str | None = None,
    ) -> None:
        """``take`` gets the number and the object of each line that is there already."""
        self._path = path
        first = {under: dict(facts)} if under else dict(facts)
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no file")
        if path.exists() and not self._begun(_dumped(first).encode()):
            found = next(read_rows(path), (0, {}))[1]
            found = found.get(under, {}) if under else found
            if found.keys().isdisjoint(facts):
                raise DataError(f"{path} is another file: its first line does not say its origin")
            if changed := describe_changes(found, json.loads(json.dumps(facts))):
                raise DataError(f"{path} was made with another {changed}: choose another file")
            _drop_torn_line(path)
            for number, value in islice(read_rows(path), 1, None):
                take(number, value)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error}") from error
        if self._file.tell() == 0:
            self.write(first)

    def write(self, value: Mapping[str, Any]) -> None:
        """Append a line: it is there whole or not at all."""
        try:
            append_text(self._file, _dumped(value))
        except WriteError as error:
            raise DataError(f"{error}; rows so far are safe") from error

    def close(self) -> None:
        self._file.close()

    def _begun(self, first: bytes) -> bool:
        """Whether there is nothing, or our first line torn, which is cut off."""
        torn = self._path.stat().st_size < len(first) and first.startswith(self._path.read_bytes())
        if torn:
            os.truncate(self._path, 0)
        return torn


def read_rows(path: Path, *, torn: bool = False) -> Iterator[tuple[int, Row]]:
    """Line numbers and objects. With ``torn`` a last line without an end is passed over.

    Raises:
        DataError: naming the line that is no JSON object.
    """
    rows = json_lines(path)
    for raw in rows:
        if isinstance(raw.value, dict):
            yield raw.row + 1, raw.value
        elif torn and next(rows, None) is None and not path.read_bytes().endswith(b"\n"):
            return
        else:
            raise DataError(f"{path}, {raw.place} is no answer: {raw.fault or 'no object'}")


def _dumped(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


def _drop_torn_line(path: Path) -> None:
    """Cut what an interrupted run left behind the last whole line."""
    with path.open("rb") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
    os.truncate(path, whole)
