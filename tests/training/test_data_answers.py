"""Answer files: what is read back, what is refused, and what a full disk leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.answers import Answer, AnswerFile, read_answers, usable
from tests.training.chat_target import write_rows
from tests.training.disk import no_file_above

ORIGIN = {"target": "t"}
ANSWER = Answer(0, "k", np.array([1, 2, 3], np.int32), ((1, 3),))


def test_older_answer_files_are_read(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "old.jsonl",
        [{"target": "1"}, {"row": 0, "kind": "k", "prompt": [1, 2], "answer": [3, 4]}],
    )
    (answer,) = read_answers(path)
    assert answer.example().loss_mask.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2"),
        ({"row": 0}, "line 2: KeyError"),
        ({"row": 0, "kind": "", "tokens": [1], "loss": [[0, 2]]}, "line 2"),
        ({"row": 0, "kind": "", "tokens": [1, 2], "loss": [[1, 2], [0, 1]]}, "line 2"),
        ({"row": 0, "kind": "", "tokens": [1, 2], "loss": []}, "line 2"),
    ],
)
def test_a_damaged_answer_file_is_named_by_line(row: Any, message: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"target": "1"}, row])
    with pytest.raises(DataError, match=message):
        read_answers(path)


def test_answers_that_cannot_be_trained_on_are_counted_by_reason() -> None:
    assert usable([ANSWER], 3) == ([], {"fewer than 3 loss tokens": 1})
    assert usable([ANSWER], 1, max_length=2) == ([], {"longer than 2 tokens": 1})
    assert usable([ANSWER], 2, max_length=3) == ([ANSWER], {})


def test_a_full_disk_is_told_with_the_file_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    file = AnswerFile(path, ORIGIN)
    file.append([ANSWER])
    whole = path.read_bytes()
    told = r"answers\.jsonl cannot be written: .*; rows so far are safe"
    with no_file_above(len(whole) + 10), pytest.raises(DataError, match=told):
        file.append([Answer(1, "k", ANSWER.tokens, ANSWER.spans)])
    assert path.read_bytes() == whole
    again = AnswerFile(path, ORIGIN)
    again.close()
    assert again.done == {0}
    assert path.read_bytes() == whole


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/answers\.jsonl cannot be written"):
        AnswerFile(tmp_path / "file" / "answers.jsonl", ORIGIN)


@pytest.mark.parametrize(("line", "why"), [('{"a": 1}', "first line"), ("notes", "not JSON")])
def test_a_file_of_something_else_is_left_alone(line: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=why):
        AnswerFile(path, ORIGIN)
    assert path.read_text() == line
