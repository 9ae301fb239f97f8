"""Training data on disk: prompts as JSON lines in, the target's own answers as JSON lines out.

An answer file names the target and the prompts it was made from, and can be continued.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dflash_serve.training.blocks import Example


class DataError(Exception):
    """A file that cannot be used; one line, naming the file and the line."""


class ChatTemplate(Protocol):
    """The part of a Hugging Face tokenizer that is needed here."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """One rendered prompt: ``row`` counts lines of the file from 0, ``kind`` is its label."""

    row: int
    kind: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt and the target's own answer to it, the stop token included."""

    row: int
    kind: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def example(self) -> Example:
        """The clean sequence; the loss counts the answer only."""
        tokens = np.array(self.prompt + self.answer, dtype=np.int32)
        return Example(tokens, np.arange(tokens.size) >= len(self.prompt))


def read_prompts(path: Path, tokenizer: ChatTemplate) -> list[Prompt]:
    """Lines ``{"messages": [...], "kind": ...}`` rendered with the generation prompt."""
    prompts = []
    for row, line in enumerate(_lines(path)):
        try:
            value = json.loads(line)
            tokens = tokenizer.apply_chat_template(
                value["messages"], add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {row + 1}: {error!r} is no prompt") from error
        prompts.append(Prompt(row, str(value.get("kind", "")), tuple(tokens)))
    if not prompts:
        raise DataError(f"{path} holds no prompts")
    return prompts


def read_answers(path: Path) -> list[Answer]:
    """All answers of a file, in the order of its prompts."""
    answers = []
    for number, line in enumerate(_lines(path)):
        try:
            value = json.loads(line)
            if number:
                answers.append(
                    Answer(
                        int(value["row"]),
                        str(value["kind"]),
                        tuple(value["prompt"]),
                        tuple(value["answer"]),
                    )
                )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number + 1}: {error!r} is no answer") from error
    if not answers:
        raise DataError(f"{path} holds no answers")
    return sorted(answers, key=lambda answer: answer.row)


class AnswerFile:
    """Appends answers as they are made; owner of the file while open.

    Raises:
        DataError: the file exists but was made from something else.
    """

    def __init__(self, path: Path, origin: dict[str, Any]) -> None:
        self._path = path
        self.done: set[int] = set()
        if path.exists():
            _drop_torn_line(path)
            lines = list(_lines(path))
            found = json.loads(lines[0]) if lines else origin
            changed = [key for key in origin if found.get(key) != origin[key]]
            if changed:
                raise DataError(f"{path} was made with another {changed[0]}: choose another file")
            self.done = {int(json.loads(line)["row"]) for line in lines[1:]}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if self._file.tell() == 0:
            self._write(origin)

    def append(self, answer: Answer) -> None:
        self._write(
            {
                "row": answer.row,
                "kind": answer.kind,
                "prompt": answer.prompt,
                "answer": answer.answer,
            }
        )

    def close(self) -> None:
        self._file.close()

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value, separators=(",", ":")) + "\n")
        self._file.flush()


def fingerprint(directory: Path) -> str:
    """Changes when a checkpoint does: its config, and size and both ends of each shard."""
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """sha256 of one file, shortened."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return (line for line in text.splitlines() if line.strip())


def _drop_torn_line(path: Path) -> None:
    """Cut what an interrupted run left behind the last whole line."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
