"""Rows from every kind of file, and what is said of bad ones."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.rows import open_source
from tests.training.chat_target import write_rows


@pytest.fixture
def values() -> list[dict[str, str]]:
    return [{"prompt": "q", "response": "a"}, {"prompt": "r", "response": "b"}]


@pytest.mark.parametrize("name", ["rows.json", "rows.parquet", "rows.csv", "saved"])
def test_tables_and_arrays_are_read_alike(
    name: str, tmp_path: Path, values: list[dict[str, str]]
) -> None:
    path, table = tmp_path / name, Dataset.from_list(values)
    if name == "rows.json":
        path.write_text(json.dumps(values, indent=2))
    elif name == "saved":
        table.save_to_disk(path)
    else:
        (table.to_parquet if name == "rows.parquet" else table.to_csv)(path)
    source = open_source(str(path))
    rows = list(source.rows())
    assert [raw.value for raw in rows] == values
    assert [raw.row for raw in rows] == [0, 1]
    assert [raw.value for raw in source.rows(limit=1)] == values[:1]


def test_a_directory_is_its_files_in_order(tmp_path: Path, values: list[dict[str, str]]) -> None:
    write_rows(tmp_path / "b.jsonl", [values[1], "nonsense"])
    Dataset.from_list(values[:1]).to_parquet(tmp_path / "a.parquet")
    rows = list(open_source(str(tmp_path)).rows())
    assert [raw.value for raw in rows] == [values[0], values[1], None]
    assert [raw.row for raw in rows] == [0, 1, 2]
    assert rows[2].place == "b.jsonl line 2"


@pytest.mark.parametrize("name", ["rows.parquet", "rows.json", "rows.csv"])
def test_a_file_that_is_not_what_its_name_says(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b'["\xff nonsense')
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        list(open_source(str(tmp_path / name)).rows())


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="saved cannot be read"):
        open_source(str(tmp_path / "saved"))
    (tmp_path / "rows" / "folder.json").mkdir(parents=True)
    with pytest.raises(DataError, match=r"folder\.json is a directory, but must be a file"):
        list(open_source(str(tmp_path / "rows")).rows())


def test_the_digest_changes_with_the_rows(tmp_path: Path, values: list[dict[str, str]]) -> None:
    path = write_rows(tmp_path / "rows.jsonl", list(values))
    before = open_source(str(path)).digest
    assert open_source(str(path)).digest == before
    write_rows(path, [values[0], {"prompt": "other"}])
    assert open_source(str(path)).digest != before


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("none.jsonl", None, "no file or directory none.jsonl"),
        ("./no/file", None, "no file or directory"),
        (".", "train", "--split and --config-name are for data sets"),
        (".", None, "holds no .jsonl"),
    ],
)
def test_what_is_not_there_is_one_line(
    name: str, split: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open_source(name, split, None)
    assert "\n" not in str(caught.value)
