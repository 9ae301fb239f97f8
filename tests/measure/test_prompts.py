"""Prompts of a file, for evaluations and benchmarks alike."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dflash_serve.measure.errors import DataError
from dflash_serve.measure.prompts import json_lines, read_chats

SYSTEM, USER, ANSWER = (
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
)


def test_json_lines_say_their_line_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "q"}\n\nnonsense\n\xff\n{"prompt": "r"}')
    rows = list(json_lines(path))
    assert [raw.place for raw in rows] == ["line 1", "line 3", "line 4", "line 5"]
    assert [raw.row for raw in rows] == [0, 2, 3, 4]
    assert [raw.fault.reason if raw.fault else None for raw in rows] == [
        None, "not JSON", "not UTF-8", None,
    ]  # fmt: skip
    assert rows[3].value == {"prompt": "r"}


def test_chats_end_with_what_is_asked_and_have_a_kind(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    lines = [
        {"kind": "a", "messages": [SYSTEM, USER, ANSWER, USER], "answer": "x"},
        {"question": "q", "answer": "a"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    first, *rest = read_chats(path)
    assert (first.kind, list(first.messages)) == ("a", [SYSTEM, USER, ANSWER, USER])
    assert [(chat.kind, list(chat.messages)) for chat in rest] == [("own", [USER])] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2: not JSON"),
        ('{"text": "a"}', "line 2: no known shape"),
        ('{"messages": [{"role": "bot", "content": "a"}]}', "line 2: unknown role: bot"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "line 2: empty"),
    ],
)
def test_a_bad_prompt_is_named_by_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f'{{"prompt": "q"}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        read_chats(path)


def test_a_prompt_file_without_prompts(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match=r"own\.jsonl holds no prompts"):
        read_chats(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_chats(tmp_path / "none.jsonl")


@pytest.mark.timeout(30)  # who reads a pipe that nobody writes to waits for ever
def test_a_pipe_is_read_once_or_refused(tmp_path: Path) -> None:
    """`--prompts <(zcat prompts.jsonl.gz)` is one."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="pipe is a pipe, but is read more than once: write it to"):
        next(json_lines(pipe))
    with ThreadPoolExecutor() as pool:
        written = pool.submit(pipe.write_text, '{"prompt": "a"}\n')
        (chat,) = read_chats(pipe)
        assert written.result()
    assert chat.messages[-1]["content"] == "a"


@pytest.mark.parametrize(("path", "kind"), [("/dev/null", "a device"), ("/", "a directory")])
def test_what_is_no_file_is_not_read(path: str, kind: str) -> None:
    with pytest.raises(DataError, match=f"{path} is {kind}, but must be a file"):
        read_chats(Path(path))
