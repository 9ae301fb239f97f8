"""What is on disk after a write that succeeds, and after one that does not."""

import json
from pathlib import Path

import pytest

from dflash_serve.atomic_files import (
    WriteError,
    append_text,
    replace_json,
    replace_text,
    replacing,
)
from tests.training.disk import no_file_above


def test_a_text_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("old")
    replace_text(path, "new\u00e9")
    assert path.read_text(encoding="utf-8") == "new\u00e9"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_json_is_written_for_people(tmp_path: Path) -> None:
    replace_json(tmp_path / "a.json", {"a": [1]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [1]}
    assert text.count("\n") > 1


def test_after_a_failure_the_old_file_is_whole_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as scratch:
            scratch.write_text("half")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_files_as_they_were(tmp_path: Path) -> None:
    old = tmp_path / "a.txt"
    old.write_text("old")
    with (tmp_path / "log").open("a") as log, no_file_above(100):
        append_text(log, "first\n")
        for path, write in (
            (old, lambda: replace_text(old, 200 * "x")),
            (tmp_path / "log", lambda: append_text(log, 200 * "x")),
        ):
            with pytest.raises(WriteError) as refused:
                write()
            assert str(refused.value) == f"{path} cannot be written: File too large"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.txt": "old", "log": "first\n"
    }  # fmt: skip


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"none/a\.txt cannot be written: No such file"):
        replace_text(tmp_path / "none" / "a.txt", "new")


def test_what_cannot_be_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    with pytest.raises(TypeError):
        replace_json(path, object())
    assert path.read_text() == "{}"
