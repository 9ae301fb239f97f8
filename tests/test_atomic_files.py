"""What is on disk after a write that succeeds, and after one that does not."""

import json
from pathlib import Path

import pytest

from dflash_serve.atomic_files import replace_json, replace_text, replacing


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


def test_what_cannot_be_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    with pytest.raises(TypeError):
        replace_json(path, object())
    assert path.read_text() == "{}"
