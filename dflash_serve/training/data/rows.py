"""Rows of prompts from files, directories or the hub, one at a time, with their places.

Knows nothing of what a row holds. JSON and CSV are read without the package `datasets`, which
would neither say in which line a fault is nor take rows of several shapes.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from dflash_serve.measure.errors import DataError
from dflash_serve.measure.prompts import RawRow, json_lines
from dflash_serve.training.data.origin import file_digest

_TABLES = (".parquet", ".csv")
_LINES = (".jsonl", ".ndjson", ".json")


class Source(Protocol):
    """Rows that can be read again and again."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str:
        """Changes when the rows do."""
        ...

    def rows(self, limit: int | None = None) -> Iterator[RawRow]:
        """The first ``limit`` rows.

        Raises:
            DataError: a file cannot be read as what its name says.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """The rows of ``files``, one file after the other: a `Source`."""

    name: str
    files: tuple[Path, ...]

    @property
    def digest(self) -> str:
        digests = [file_digest(path) for path in self.files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]

    def rows(self, limit: int | None = None) -> Iterator[RawRow]:
        return islice(self._rows(), limit)

    def _rows(self) -> Iterator[RawRow]:
        offset = 0
        for path in self.files:
            prefix = f"{path.name} " if len(self.files) > 1 else ""
            last = -1
            for raw in _file_rows(path):
                last = raw.row
                yield RawRow(offset + raw.row, prefix + raw.place, raw.value, raw.fault)
            offset += last + 1


def open_source(name: str, split: str | None = None, config: str | None = None) -> Source:
    """``name`` is a path if it exists or looks like one, else a hub id ``OWNER/NAME``.

    Raises:
        DataError: nothing is there, or the hub cannot be reached.
    """
    path = Path(name).expanduser()
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return _tables().from_folder(path, split)
    if path.exists():
        if split or config:
            raise DataError(f"{name} is local: --split and --config-name are for data sets")
        return FileSource(name, _files(path))
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or path.suffix in _LINES:
        raise DataError(f"no file or directory {name} (a hub id would be OWNER/NAME)")
    return _tables().from_hub(name, split, config)


def _files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        return (path,)
    known = (*_LINES, *_TABLES)
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix in known and not any(part.startswith(".") for part in file.parts[-2:])
    )
    if not found:
        raise DataError(f"{path} holds no {', '.join(known)} file")
    return tuple(found)


def _file_rows(path: Path) -> Iterator[RawRow]:
    if path.suffix == ".parquet":
        return _numbered(_tables().parquet_values(path))
    if path.suffix == ".csv":
        return _numbered(_csv_values(path))
    if path.suffix == ".json" and _begins_with_bracket(path):
        return _numbered(_array_values(path))
    return json_lines(path)


def _numbered(values: Iterator[Any]) -> Iterator[RawRow]:
    for row, value in enumerate(values):
        yield RawRow(row, f"row {row + 1}", value)


def _array_values(path: Path) -> Iterator[Any]:
    try:
        yield from json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _csv_values(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file, strict=True)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error


def _begins_with_bracket(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4096).lstrip().startswith(b"[")
    except OSError:
        return False  # who reads the lines will say so


def _tables() -> Any:
    """The module that needs the package `datasets`, which other files do without."""
    from dflash_serve.training.data import tables  # noqa: PLC0415

    return tables
