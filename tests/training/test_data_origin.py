"""What is said of the answers that a drafter was trained on."""

from pathlib import Path
from typing import Any

import pytest

from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.answers import AnswerFile, read_set
from dflash_serve.training.data.origin import (
    check_origins,
    describe,
    describe_parts,
    tokenizer_fingerprint,
    vocabulary_fingerprint,
)
from tests.training.chat_target import PLAIN, write_chat_target, write_rows

MADE = {"target": "1a2b", "responses": "all by the target", "max_new": 512}
SAMPLING = {"temperature": 0.7, "top_p": 0.95, "top_k": 20, "seed": 3}


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (
            MADE | {"sampling": "greedy", "chat_template_kwargs": {"enable_thinking": False}},
            "greedy answers of the target to every turn, at most 512 tokens each, "
            "chat template with enable_thinking=false",
        ),
        (
            MADE | {"responses": "last by the target", "sampling": SAMPLING},
            "answers of the target to the last turn of each chat, sampled with "
            "temperature 0.7, top_p 0.95, top_k 20, seed 3, at most 512 tokens each",
        ),
        (
            {"target": "1a2b", "responses": "given", "chat_template_kwargs": {}},
            "responses that came with the prompts, not generated anew",
        ),
        (
            {"target": "1a2b", "format": "dflash-serve records"},
            "answers of the target as it served them, sampled as each request asked",
        ),
        ({"target": "1a2b"}, "answers of the target, greedy or sampled is unknown"),
        (
            {"target": "9f", "sampling": "greedy", "structured": {"type": "object"}},
            "greedy answers of another target (9f), some of them under a JSON schema",
        ),
        ({"sampling": "greedy"}, "greedy answers of another target (unknown)"),
    ],
)
def test_an_origin_says_how_answers_were_made(origin: dict[str, Any], words: str) -> None:
    assert describe(origin, target="1a2b") == words


def made_by(directory: Path) -> dict[str, Any]:
    """The origin of greedy answers by the target in ``directory``, which is called 1a2b."""
    return MADE | {
        "sampling": "greedy",
        "tokenizer": tokenizer_fingerprint(directory),
        "vocabulary": vocabulary_fingerprint(directory),
    }


def answer_file(path: Path, *parts: tuple[dict[str, Any], int]) -> Path:
    """Files of one answer per row, put one behind the other."""
    row = {"kind": "", "tokens": [1, 2, 3], "loss": [[1, 3]]}
    lines: list[Any] = []
    for origin, count in parts:
        lines += [origin, *({"row": at} | row for at in range(count))]
    return write_rows(path, lines)


def notes(directory: Path, *paths: Path) -> list[str]:
    return check_origins({path: read_set(path).parts for path in paths}, "1a2b", directory)


def test_files_of_one_origin_need_no_words(tmp_path: Path) -> None:
    target = write_chat_target(tmp_path / "target")
    one, other = made_by(target) | {"prompts": "p"}, made_by(target) | {"prompts": "q"}
    path = answer_file(tmp_path / "a.jsonl", (one, 2), (other, 1))
    assert notes(target, path, answer_file(tmp_path / "b.jsonl", (one, 1))) == []
    assert notes(target, answer_file(tmp_path / "old.jsonl", ({"target": "1a2b"}, 1))) == []
    assert describe_parts(read_set(path).parts).startswith("3 greedy answers of the target")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "9f"}, "3 of 5 answers are of another target (9f, here 1a2b)"),
        ({"tokenizer": "9f"}, "3 of 5 answers are of another tokenizer (9f, here "),
        ({"sampling": SAMPLING}, "holds 2 greedy answers of the target to every turn, at most"),
        ({"responses": "given"}, "; 3 responses that came with the prompts, not generated anew"),
        (
            {"chat_template_kwargs": {"enable_thinking": True}},
            "; 3 greedy answers of the target to every turn, at most 512 tokens each, chat "
            "template with enable_thinking=true",
        ),
    ],
)
def test_answers_of_mixed_origin_are_told_with_their_numbers(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    target = write_chat_target(tmp_path / "target")
    own = made_by(target)
    mixed = answer_file(tmp_path / "mixed.jsonl", (own, 2), (own | change, 3))
    (note,) = notes(target, mixed)
    assert note.startswith(str(mixed))
    assert message in note


def test_the_numbers_of_each_origin_agree(tmp_path: Path) -> None:
    """An answer of another target is never counted among the target's own."""
    target = write_chat_target(tmp_path / "target")
    own = made_by(target)
    path = answer_file(
        tmp_path / "a.jsonl",
        (own, 2),
        (own | {"target": "9f"}, 3),
        (own | {"responses": "given"}, 4),
    )
    others, parts = notes(target, path)
    assert "3 of 9 answers are of another target (9f, here 1a2b)" in others
    for told in (
        "holds 2 greedy answers of the target to",
        "; 3 greedy answers of another target (9f) to",
        "; 4 responses that came with the prompts",
    ):
        assert told in parts


def test_a_held_out_file_that_was_made_otherwise_is_told(tmp_path: Path) -> None:
    target = write_chat_target(tmp_path / "target")
    data = answer_file(tmp_path / "data.jsonl", (made_by(target), 2))
    held = answer_file(tmp_path / "held.jsonl", (made_by(target) | {"responses": "given"}, 1))
    assert [note.split(" holds ")[1][:10] for note in notes(target, data, held)] == [
        "2 greedy a",
        "1 response",
    ]


def test_token_ids_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    target = write_chat_target(tmp_path / "target")
    own = made_by(target)
    path = answer_file(tmp_path / "a.jsonl", (own, 1), (own | {"vocabulary": "9f"}, 4))
    with pytest.raises(DataError, match=r"4 of 5 answers are of another vocabulary \(9f, here"):
        notes(target, path)


def test_a_vocabulary_is_its_ids_and_not_its_file(tmp_path: Path) -> None:
    target = write_chat_target(tmp_path / "target")
    before = vocabulary_fingerprint(target)
    path = target / "tokenizer.json"
    content = path.read_text()
    path.write_text(content + "\n")
    write_chat_target(tmp_path / "other", PLAIN + " ")
    assert vocabulary_fingerprint(target) == before == vocabulary_fingerprint(tmp_path / "other")
    assert tokenizer_fingerprint(target) != tokenizer_fingerprint(tmp_path / "other")
    path.write_text(content.replace('"a":', '"z":').replace('"unk_token":"a"', '"unk_token":"z"'))
    assert vocabulary_fingerprint(target) != before


def test_a_file_of_two_origins_is_not_continued(tmp_path: Path) -> None:
    path = answer_file(tmp_path / "a.jsonl", (MADE, 1), (MADE, 1))
    with pytest.raises(DataError, match="line 3: another file's answers follow"):
        AnswerFile(path, MADE)
