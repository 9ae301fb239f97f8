"""The ten data sets of z-lab's protocol: where their rows are and how a row becomes user turns.

Reads published files from a directory, or the hub's through `datasets`. Knows no models.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from dflash_serve.training.data import DataError
from dflash_serve.training.evaluate.prompts import Conversation

Row = Mapping[str, Any]

_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json")


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set: hub id, configuration and split, samples of the protocol, and its format.

    ``columns`` are those that ``turns`` reads. ``files`` are glob patterns of the published files
    of that split, relative to the repository's folder.
    """

    hub: str
    config: str | None
    split: str
    samples: int
    columns: tuple[str, ...]
    turns: Callable[[Row], list[str]]
    files: tuple[str, ...]


def _math(column: str) -> Callable[[Row], list[str]]:
    ask = "Please reason step by step, and put your final answer within \\boxed{}."
    return lambda row: [f"{row[column]}\n{ask}"]


def _humaneval(row: Row) -> list[str]:
    ask = "Write a solution to this problem that passes its tests:"
    return [f"{ask}\n```python\n{row['prompt']}\n```"]


def _livecodebench(row: Row) -> list[str]:
    starter = row["starter_code"]
    note = (
        "Complete the starter code below and return the whole program in one code block."
        if starter
        else "Read the input from stdin and write the answer to stdout. "
        "Put the whole program in one code block."
    )
    return [
        "You are an expert Python programmer. Solve the problem below with a correct program "
        "that passes all of its tests.\n\n"
        f"### Question:\n{row['question_content']}\n\n"
        f"### Format: {note}\n```python\n{starter or '# your program'}\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    ]


def _swe_bench(row: Row) -> list[str]:
    return [f"Problem Statement:\n{row['problem_statement']}\n\nPlease fix this issue."]


def _alpaca(row: Row) -> list[str]:
    given = f"\n\nInput:\n{row['input']}" if row["input"] else ""
    return [f"{row['instruction']}{given}"]


DATASETS: dict[str, DataSet] = {
    "gsm8k": DataSet(
        "openai/gsm8k", "main", "test", 128, ("question",), _math("question"),
        ("main/test-*.parquet",),
    ),
    "math500": DataSet(
        "HuggingFaceH4/MATH-500", None, "test", 128, ("problem",), _math("problem"),
        ("test.jsonl",),
    ),
    "aime24": DataSet(
        "HuggingFaceH4/aime_2024", None, "train", 30, ("problem",), _math("problem"),
        ("data/train-*.parquet",),
    ),
    "aime25": DataSet(
        "MathArena/aime_2025", None, "train", 30, ("problem",), _math("problem"),
        ("data/train-*.parquet",),
    ),
    "humaneval": DataSet(
        "openai/openai_humaneval", None, "test", 164, ("prompt",), _humaneval,
        ("openai_humaneval/test-*.parquet", "HumanEval.jsonl*"),
    ),
    "mbpp": DataSet(
        "google-research-datasets/mbpp", "sanitized", "test", 128, ("prompt",),
        lambda row: [str(row["prompt"])],
        ("sanitized/test-*.parquet",),
    ),
    "livecodebench": DataSet(
        "livecodebench/code_generation_lite", None, "test", 128,
        ("question_content", "starter_code"), _livecodebench,
        ("test*.jsonl",),
    ),
    "swe-bench": DataSet(
        "princeton-nlp/SWE-bench_Lite", None, "test", 128, ("problem_statement",), _swe_bench,
        ("data/test-*.parquet",),
    ),
    "mt-bench": DataSet(
        "HuggingFaceH4/mt_bench_prompts", None, "train", 80, ("prompt",),
        lambda row: [str(turn) for turn in row["prompt"]],
        ("data/train-*.parquet", "raw/question.jsonl"),
    ),
    "alpaca": DataSet(
        "tatsu-lab/alpaca", None, "train", 128, ("instruction", "input"), _alpaca,
        ("data/train-*.parquet", "alpaca_data.json"),
    ),
}  # fmt: skip
"""Sources and counts as DFlash's own benchmark script takes them."""

_OTHER_NAMES = {"prompt": "turns"}
"""MT-Bench's own question file calls its turns so."""


def known(names: Sequence[str]) -> list[str]:
    """The names, checked.

    Raises:
        DataError: naming the one that is unknown.
    """
    for name in names:
        if name not in DATASETS:
            raise DataError(f"no data set {name!r}: there are {', '.join(DATASETS)}")
    return list(dict.fromkeys(names))


def found_in(directory: Path) -> list[str]:
    """The data sets that ``directory`` has files of."""
    return [name for name in DATASETS if _files(directory, name)]


def from_directory(directory: Path, name: str) -> list[Conversation]:
    """A data set from its published files below ``directory``.

    They lie in a folder named like the data set or like its hub repository, as a clone has them;
    or in one file DIRECTORY/NAME.parquet, .jsonl, .jsonl.gz or .json.

    Raises:
        DataError: naming the file, and the column that it lacks.
    """
    wanted = DATASETS[name]
    paths = _files(directory, name)
    if not paths:
        folder = wanted.hub.split("/")[1]
        raise DataError(
            f"{directory} has no {name}: looked for {name}.parquet, .jsonl, .json and for "
            f"{' or '.join(wanted.files)} in {name}/ and {folder}/"
        )
    rows = [row for path in paths for row in _rows(path, wanted)]
    return _conversations(name, rows, ", ".join(str(path) for path in paths))


def from_hub(name: str) -> list[Conversation]:
    """A data set from the hub or its cache.

    Raises:
        DataError: one line if the hub cannot be reached.
    """
    from datasets import load_dataset  # noqa: PLC0415 - seconds to import, for the hub only

    wanted = DATASETS[name]
    try:
        if name == "livecodebench":  # its repository is a script, which is never run
            files = [f"hf://datasets/{wanted.hub}/test{part}.jsonl" for part in ("", *"23456")]
            loaded = load_dataset("json", data_files=files, split="train")
        else:
            loaded = load_dataset(wanted.hub, wanted.config, split=wanted.split)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise DataError(
            f"{name}: {wanted.hub} cannot be had from the hub ({reason}); "
            "give its files with --data-dir"
        ) from error
    return _conversations(name, [_checked(row, wanted, wanted.hub) for row in loaded], wanted.hub)


def _files(directory: Path, name: str) -> list[Path]:
    wanted = DATASETS[name]
    for suffix in _SUFFIXES:
        path = directory / f"{name}{suffix}"
        if path.is_file():
            return [path]
    folders = [directory / name, directory / wanted.hub.split("/")[1]]
    for folder in folders:
        for pattern in wanted.files:
            if paths := sorted(folder.glob(pattern)):
                return paths
    return []


def _rows(path: Path, wanted: DataSet) -> Iterator[Row]:
    try:
        for row in _read(path):
            yield _checked(row, wanted, str(path))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    elif path.suffix == ".json":
        yield from json.loads(path.read_text(encoding="utf-8"))
    else:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            yield from (json.loads(line) for line in file if line.strip())


def _checked(row: Any, wanted: DataSet, where: str) -> Row:
    """The columns that are needed, and those alone."""
    if not isinstance(row, Mapping):
        raise DataError(f"{where} holds {type(row).__name__} where rows should be")
    values = {}
    for column in wanted.columns:
        name = column if column in row else _OTHER_NAMES.get(column, column)
        if name not in row:
            raise DataError(f"{where} has no column {column!r}; it has {', '.join(row) or 'none'}")
        values[column] = row[name]
    return values


def _conversations(name: str, rows: Sequence[Row], where: str) -> list[Conversation]:
    if not rows:
        raise DataError(f"{where} holds no rows")
    made, first = [], DATASETS[name].columns[0]
    for number, row in enumerate(rows):
        if not row[first]:
            raise DataError(f"{where}: row {number + 1} has an empty {first!r}")
        made.append(Conversation(name, number, tuple(DATASETS[name].turns(row))))
    return made
