"""Rows of prompts from files, directories or the hub, one at a time, with their places.

Knows nothing of what a row holds. JSON lines are read here and not by `datasets`, which would
neither say in which line a fault is nor take rows of several shapes.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from dflash_serve.measure.prompts import RawRow, json_lines
from dflash_serve.training.data.errors import DataError
from dflash_serve.training.data.origin import file_digest

_TABLES = (".parquet", ".csv")
_LINES = (".jsonl", ".ndjson", ".json")
_PROBE_SECONDS = 10
_HttpError: Any = HfHubHTTPError.__bases__[0]
"""Base of what the hub's HTTP library raises: which library that is differs between releases."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file, a directory, or a data set of the hub; opened anew for every reading."""

    name: str
    split: str | None
    config: str | None
    files: tuple[Path, ...]
    table: Dataset | None

    def rows(self, limit: int | None = None) -> Iterator[RawRow]:
        """The first ``limit`` rows.

        Raises:
            DataError: a file cannot be read as what its name says.
        """
        return islice(self._rows(), limit)

    @property
    def digest(self) -> str:
        """Changes when the rows do."""
        if self.table is not None:
            size = self.table.info.dataset_size or self.table.size_in_bytes
            said = [self.name, self.config, self.split, len(self.table), size]
            return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
        digests = [file_digest(path) for path in self.files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]

    def place(self, row: int) -> str:
        """How a row is named to its maker."""
        lines = len(self.files) == 1 and self.files[0].suffix not in _TABLES
        return f"line {row + 1}" if lines else f"row {row + 1}"

    def _rows(self) -> Iterator[RawRow]:
        if self.table is not None:
            for row, value in enumerate(self.table):
                yield RawRow(row, f"row {row + 1}", value)
            return
        offset = 0
        for path in self.files:
            prefix = f"{path.name} " if len(self.files) > 1 else ""
            last = -1
            for raw in _file_rows(path):
                last = raw.row
                yield RawRow(offset + raw.row, prefix + raw.place, raw.value, raw.fault)
            offset += last + 1


def open_source(name: str, split: str | None, config: str | None) -> Source:
    """``name`` is a path if it exists or looks like one, else a hub id ``OWNER/NAME``.

    Raises:
        DataError: nothing is there, or the hub cannot be reached.
    """
    path = Path(name).expanduser()
    saved = (path / "state.json").exists() or (path / "dataset_dict.json").exists()
    if path.exists() and not saved:
        if split or config:
            raise DataError(f"{name} is local: --split and --config-name are for data sets")
        return Source(name, None, None, _files(path), None)
    if saved:
        return Source(name, split, config, (), _one_split(name, load_from_disk(str(path)), split))
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or path.suffix in _LINES:
        raise DataError(f"no file or directory {name} (a hub id would be OWNER/NAME)")
    return Source(name, split, config, (), _from_hub(name, split, config))


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


def reach_hub(name: str) -> None:
    """Return at once if the hub has data set ``name``, or if only its cache is to be used.

    Raises:
        DataError: the hub cannot be reached, or has no such data set.
    """
    try:
        # load_dataset alone retries for half a minute without a network
        HfApi().dataset_info(name, timeout=_PROBE_SECONDS)
    except OfflineModeIsEnabled:
        pass  # what is cached will do
    except (HfHubHTTPError, HFValidationError) as error:
        raise DataError(f"cannot get {name} from the hub: {_first_line(error)}") from error
    except (_HttpError, OSError) as error:
        raise DataError(
            f"the hub cannot be reached for {name} (HF_HUB_OFFLINE=1 uses what is cached)"
        ) from error


def _from_hub(name: str, split: str | None, config: str | None) -> Dataset:
    reach_hub(name)
    try:
        return _one_split(name, load_dataset(name, config), split)
    except (DatasetsError, _HttpError, OSError, ValueError) as error:
        raise DataError(f"cannot get {name} from the hub: {_first_line(error)}") from error


def _one_split(name: str, found: Any, split: str | None) -> Dataset:
    if isinstance(found, Dataset):
        if split:
            raise DataError(f"{name} has no splits")
        return found
    wanted = split or ("train" if "train" in found else "")
    if wanted not in found and (split or len(found) != 1):
        raise DataError(f"{name} has the splits {', '.join(found)}: choose one with --split")
    return found[wanted or next(iter(found))]


def _file_rows(path: Path) -> Iterator[RawRow]:
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix == ".csv":
        return _csv_rows(path)
    if path.suffix == ".json" and _begins_with_bracket(path):
        return _array_rows(path)
    return json_lines(path)


def _array_rows(path: Path) -> Iterator[RawRow]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for row, value in enumerate(values):
        yield RawRow(row, f"row {row + 1}", value)


def _csv_rows(path: Path) -> Iterator[RawRow]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row, value in enumerate(csv.DictReader(file, strict=True)):
                yield RawRow(row, f"row {row + 1}", value)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    """Streamed: nothing is copied into a cache."""
    try:
        table = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        for row, value in enumerate(table):
            yield RawRow(row, f"row {row + 1}", value)
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as parquet: {_first_line(error)}") from error


def _begins_with_bracket(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).lstrip().startswith(b"[")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
