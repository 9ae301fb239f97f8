"""Rows that the package `datasets` reads: parquet files, saved data sets and those of the hub."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.hub import HttpError, first_line, reach_hub
from dflash_serve.training.data.rows import Source, numbered


def from_folder(path: Path, split: str | None) -> Source:
    """What `Dataset.save_to_disk` wrote.

    Raises:
        DataError: it cannot be read, has no such split, or several where none is named.
    """
    name = str(path)
    try:
        found = load_from_disk(name)
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read: {first_line(error)}") from error
    return _source([name, None, split], _one_split(name, found, split))


def from_hub(name: str, split: str | None, config: str | None) -> Source:
    """A data set of the hub, or of its cache.

    Raises:
        DataError: the hub cannot be reached, or has no such data set, configuration or split.
    """
    reach_hub(name)
    try:
        table = _one_split(name, load_dataset(name, config), split)
    except (DatasetsError, HttpError, OSError, ValueError) as error:
        raise DataError(f"cannot get {name} from the hub: {first_line(error)}") from error
    return _source([name, config, split], table)


def parquet_values(path: Path) -> Iterator[Any]:
    """Rows of one file, streamed: nothing is copied into a cache.

    Raises:
        DataError: it is no parquet file.
    """
    try:
        yield from load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    except (DatasetsError, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as parquet: {first_line(error)}") from error


def _source(called: list[str | None], table: Dataset) -> Source:
    said = [*called, len(table), table.info.dataset_size or table.size_in_bytes]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    return Source(str(called[0]), lambda: digest, lambda: numbered(table))


def _one_split(name: str, found: Any, split: str | None) -> Dataset:
    if isinstance(found, Dataset):
        if split:
            raise DataError(f"{name} has no splits")
        return found
    wanted = split or ("train" if "train" in found else "")
    if wanted not in found and (split or len(found) != 1):
        raise DataError(f"{name} has the splits {', '.join(found)}: choose one with --split")
    return found[wanted or next(iter(found))]
