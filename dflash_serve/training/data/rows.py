"""Rows of prompts from files, directories or the hub, one at a time, with their places.

Knows nothing of what a row holds. JSON and CSV are read without the package `datasets`, which
would neither say in which line a fault is nor take rows of several shapes.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dflash_serve.measure.errors import DataError
from dflash_serve.measure.prompts import RawRow, check_file, json_lines
from dflash_serve.training.data.origin import file_digest

_TABLES = (".parquet", ".csv")
_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True, slots=True)
class Source:
    """Rows that can be read again and again, and a digest that changes when they do."""

    name: str
    find_digest: Callable[[], str]
    read: Callable[[], Iterator[RawRow]]

    @property
    def digest(self) -> str:
        return self.find_digest()

    def rows(self, limit: int | None = None) -> Iterator[RawRow]:
        """The first ``limit`` rows."""
        return islice(self.read(), limit)


def file_source(name: str, files: Sequence[Path]) -> Source:
    """The rows of ``files``, one file after the other."""
    return Source(name, lambda: _digest(files), lambda: _rows(files))


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
        return file_source(name, _files(path))
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or path.suffix in _LINES:
        raise DataError(f"no file or directory {name} (a hub id would be OWNER/NAME)")
    return _tables().from_hub(name, split, config)


def _files(path: Path) -> tuple[Path, ...]:
    if not path.is_dir():
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


def _digest(files: Sequence[Path]) -> str:
    digests = [file_digest(path) for path in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]


def _rows(files: Sequence[Path]) -> Iterator[RawRow]:
    offset = 0
    for path in files:
        prefix = f"{path.name} " if len(files) > 1 else ""
        last = -1
        for raw in _file_rows(path):
            last = raw.row
            yield RawRow(offset + raw.row, prefix + raw.place, raw.value, raw.fault)
        offset += last + 1


def _file_rows(path: Path) -> Iterator[RawRow]:
    check_file(path)
    if path.suffix == ".parquet":
        return numbered(_tables().parquet_values(path))
    if path.suffix == ".csv":
        return numbered(_csv_values(path))
    if path.suffix == ".json" and _begins_with_bracket(path):
        return numbered(_array_values(path))
    return json_lines(path)


def numbered(values: Iterable[Any]) -> Iterator[RawRow]:
    """Rows of a table, which has no lines."""
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
