"""Answer files: JSON lines of token ids and loss spans, appended as answers are made.

The first line says what they were made from. Knows no text.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dflash_serve.measure.errors import DataError
from dflash_serve.measure.prompts import json_lines
from dflash_serve.training.data.example import Example, IntArray
from dflash_serve.training.data.lines import LinesFile, Row, read_rows
from dflash_serve.training.data.origin import Part

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One token sequence of a chat, and which of its tokens are the answerer's own choice.

    ``row`` counts rows of the prompts from 0, ``kind`` is the row's label. tokens: [T] int32.
    spans: [start, end) of each answer, its stop token included, ascending. A row has several
    sequences where the template renders an earlier answer otherwise than it was generated.
    """

    row: int
    kind: str
    tokens: IntArray
    spans: tuple[Span, ...]

    @property
    def loss_tokens(self) -> int:
        return sum(end - start for start, end in self.spans)

    def example(self) -> Example:
        """The clean sequence; the loss counts the answers only."""
        return Example(self.tokens, _mask(len(self.tokens), self.spans))

    def turns(self) -> list[Example]:
        """One sequence per answer, cut behind it: what was asked for it, and the answer."""
        return [Example(self.tokens[:end], _mask(end, [(start, end)])) for start, end in self.spans]


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """All sequences of a file in the order of its prompts, and how many are of which origin."""

    answers: list[Answer]
    parts: tuple[Part, ...]


def read_answers(path: Path) -> list[Answer]:
    """`read_set` without its origins."""
    return read_set(path).answers


def read_set(path: Path) -> AnswerSet:
    """A whole file. Files that were put one behind the other keep their origins apart.

    Raises:
        DataError: naming the line that is no answer, or there are none.
    """
    read_origin(path)
    answers: list[Answer] = []
    parts: list[Part] = []
    for number, value in read_rows(path):
        if _is_origin(value):
            parts.append(Part(value, 0))
            continue
        sequences = parse_row(path, number, value)
        answers += sequences
        parts[-1] = Part(parts[-1].origin, parts[-1].answers + sum(len(a.spans) for a in sequences))
    if not answers:
        raise DataError(f"{path} holds no answers")
    return AnswerSet(sorted(answers, key=lambda answer: answer.row), tuple(parts))


def stream_answers(path: Path) -> Iterator[Answer]:
    """Sequences as they stand in a file, one row at a time."""
    for number, value in read_rows(path):
        if not _is_origin(value):
            yield from parse_row(path, number, value)


def read_origin(path: Path) -> dict[str, Any]:
    """What a file was made from: its first line.

    Raises:
        DataError: the file has none.
    """
    first = next(json_lines(path), None)
    if first is None or not isinstance(first.value, dict) or not _is_origin(first.value):
        raise DataError(f"{path} is no answer file: its first line does not say its origin")
    return first.value


def parse_row(path: Path, number: int, value: Row) -> list[Answer]:
    """The sequences of one row.

    Rows are ``{"row", "kind", "tokens", "loss"}``, or ``{"row", "kind", "sequences": [...]}`` with
    several of tokens and loss, or ``{"row", "kind", "prompt", "answer"}``, as servers record them.

    Raises:
        DataError: naming the line, which is no answer.
    """
    try:
        row, kind = int(value["row"]), str(value["kind"])
        if "prompt" in value:
            tokens = [*value["prompt"], *value["answer"]]
            return [_checked(row, kind, tokens, [[len(value["prompt"]), len(tokens)]])]
        parts = value.get("sequences", [value])
        return [_checked(row, kind, part["tokens"], part["loss"]) for part in parts]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{path}, line {number}: {error!r} is no answer") from error


def usable(
    answers: Iterable[Answer], min_loss_tokens: int, max_length: int | None = None
) -> tuple[list[Answer], dict[str, int]]:
    """The answers that can be trained on, and how many were left out by reason."""
    kept: list[Answer] = []
    left_out: dict[str, int] = {}
    for answer in answers:
        if answer.loss_tokens < min_loss_tokens:
            reason = f"fewer than {min_loss_tokens} loss tokens"
        elif max_length is not None and len(answer.tokens) > max_length:
            reason = f"longer than {max_length} tokens"
        else:
            kept.append(answer)
            continue
        left_out[reason] = left_out.get(reason, 0) + 1
    return kept, left_out


class AnswerFile(LinesFile):
    """Appends rows as they are finished; ``done`` are those that the file holds."""

    def __init__(self, path: Path, origin: Mapping[str, Any]) -> None:
        self.done: set[int] = set()
        super().__init__(path, origin, self._take)

    def append(self, answers: Sequence[Answer]) -> None:
        """All sequences of one row, as one line: a row is there whole or not at all."""
        parts = [{"tokens": answer.tokens.tolist(), "loss": answer.spans} for answer in answers]
        content = parts[0] if len(parts) == 1 else {"sequences": parts}
        self.write({"row": answers[0].row, "kind": answers[0].kind, **content})
        self.done.add(answers[0].row)

    def _take(self, number: int, value: Row) -> None:
        if _is_origin(value):
            raise DataError(f"{self._path}, line {number}: another file's answers follow")
        self.done.add(parse_row(self._path, number, value)[0].row)


def _is_origin(value: Mapping[str, Any]) -> bool:
    return "target" in value and "row" not in value


def _checked(row: int, kind: str, tokens: list[int], loss: list[list[int]]) -> Answer:
    spans = tuple((int(start), int(end)) for start, end in loss)
    edges = [edge for span in spans for edge in span]
    if not spans or edges != sorted(edges) or edges[0] < 0 or edges[-1] > len(tokens):
        raise ValueError(f"loss {loss} of {len(tokens)} tokens")
    return Answer(row, kind, np.array(tokens, dtype=np.int32), spans)


def _mask(length: int, spans: Iterable[Span]) -> np.ndarray:
    mask = np.zeros(length, dtype=np.bool_)
    for start, end in spans:
        mask[start:end] = True
    return mask
