"""The ten data sets of z-lab's protocol: where their rows are and how a row becomes user turns.

From published files in a directory, or from the hub. Knows no models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.hub import first_line, reach_hub
from dflash_serve.training.data.rows import Source, file_source, open_source
from dflash_serve.training.evaluate.prompts import Conversation

Row = Mapping[str, Any]

_SUFFIXES = (".parquet", ".jsonl", ".json")


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
        ("openai_humaneval/test-*.parquet",),
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
            there = ", ".join(DATASETS)
            raise DataError(f"--datasets names {name!r}, which is no data set: there are {there}")
    return list(dict.fromkeys(names))


def found_in(directory: Path) -> list[str]:
    """The data sets that ``directory`` has files of."""
    return [name for name in DATASETS if _files(directory, name)]


def from_directory(directory: Path, name: str) -> list[Conversation]:
    """A data set from its published files below ``directory``.

    They lie in a folder named like the data set or like its hub repository, as a clone has them;
    or in one file DIRECTORY/NAME.parquet, .jsonl or .json.

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
    where = ", ".join(str(path) for path in paths)
    return _conversations(name, file_source(where, paths))


def from_hub(name: str) -> list[Conversation]:
    """A data set from the hub or its cache.

    Raises:
        DataError: one line if the hub cannot be reached.
    """
    wanted = DATASETS[name]
    try:
        if name == "livecodebench":  # its repository has a script, which is never run
            source = file_source(wanted.hub, _livecodebench_files(wanted.hub))
        else:
            source = open_source(wanted.hub, wanted.split, wanted.config)
    except (DataError, OSError) as error:
        raise DataError(
            f"{name}: {first_line(error)}; --data-dir reads its files from a folder"
        ) from error
    return _conversations(name, source)


def _livecodebench_files(hub: str) -> tuple[Path, ...]:
    reach_hub(hub)
    names = [f"test{part}.jsonl" for part in ("", *"23456")]
    return tuple(Path(hf_hub_download(hub, name, repo_type="dataset")) for name in names)


def _files(directory: Path, name: str) -> list[Path]:
    wanted = DATASETS[name]
    for suffix in _SUFFIXES:
        path = directory / f"{name}{suffix}"
        if path.is_file():
            return [path]
    for folder in (directory / name, directory / wanted.hub.split("/")[1]):
        for pattern in wanted.files:
            if paths := sorted(folder.glob(pattern)):
                return paths
    return []


def _conversations(name: str, source: Source) -> list[Conversation]:
    """In the order of the rows; ``row`` counts rows and not lines."""
    wanted, made = DATASETS[name], list[Conversation]()
    for raw in source.rows():
        where = f"{source.name}, {raw.place}"
        if raw.fault is not None:
            raise DataError(f"{where}: {raw.fault}")
        turns = wanted.turns(_columns(raw.value, wanted, where))
        made.append(Conversation(name, len(made), tuple(turns)))
    if not made:
        raise DataError(f"{source.name} holds no rows")
    return made


def _columns(row: Any, wanted: DataSet, where: str) -> Row:
    """The columns that are needed, and those alone."""
    if not isinstance(row, Mapping):
        raise DataError(f"{where} holds no row but {type(row).__name__}")
    values = {}
    for column in wanted.columns:
        name = column if column in row else _OTHER_NAMES.get(column, column)
        if name not in row:
            raise DataError(f"{where} has no column {column!r}; it has {', '.join(row) or 'none'}")
        values[column] = row[name]
    if not values[wanted.columns[0]]:
        raise DataError(f"{where} has an empty {wanted.columns[0]!r}")
    return values
