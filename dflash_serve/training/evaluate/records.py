"""What one turn cost, decoded speculatively and plainly, and the file that keeps all of them.

An evaluation that was interrupted goes on from that file.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from dflash_serve.measure.errors import DataError
from dflash_serve.measure.figures import Round
from dflash_serve.training.data.origin import describe_changes
from dflash_serve.training.evaluate.prompts import Conversation


@dataclass(frozen=True, slots=True)
class Decoded:
    """One way to answer one turn. None: not known, or no rounds (plain decoding).

    ``tokens`` counts generated tokens, a stop token included. ``started`` and ``ended`` are Unix
    seconds around the whole answer, ``decode_seconds`` those after the first token.
    ``tokens_per_round`` is the mean over its ``passes`` verify passes, the bonus token included.
    """

    tokens: int
    started: float
    ended: float
    decode_seconds: float | None = None
    tokens_per_round: float | None = None
    passes: int | None = None
    drafted: int | None = None
    accepted: int | None = None
    rounds: tuple[Round, ...] | None = None

    @classmethod
    def of_rounds(
        cls, tokens: int, span: tuple[float, float], decode_seconds: float, rounds: Sequence[Round]
    ) -> "Decoded":
        """With the figures that follow from its rounds; ``span`` is (started, ended)."""
        return cls(
            tokens,
            *span,
            decode_seconds,
            fmean(one.committed for one in rounds) if rounds else None,
            len(rounds),
            sum(one.proposed for one in rounds),
            sum(one.accepted for one in rounds),
            tuple(rounds),
        )

    def without_rounds(self) -> "Decoded":
        """For plain decoding: its rounds say nothing."""
        return Decoded(self.tokens, self.started, self.ended, self.decode_seconds)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Decoded":
        rounds = value["rounds"]
        told = None if rounds is None else tuple(Round(*one) for one in rounds)
        return cls(**{**value, "rounds": told})


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to one turn. ``same``: whether both ways gave the same text."""

    dataset: str
    row: int
    digest: str
    turn: int
    text: str
    speculative: Decoded
    plain: Decoded | None = None
    same: bool | None = None

    @property
    def key(self) -> tuple[str, int, str, int]:
        return self.dataset, self.row, self.digest, self.turn


@dataclass(frozen=True, slots=True)
class Failure:
    """A turn without an answer; it is tried again when the evaluation is continued."""

    dataset: str
    row: int
    turn: int
    error: str


Take = Callable[[Response | Failure], None]
"""Gets every answer as it comes."""


class ResponseFile:
    """Appends responses as they are made, behind a line of settings; owner of the file while open.

    Of several lines for one turn the last counts.

    Raises:
        DataError: the file is of an evaluation with other settings, or unreadable.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._kept: dict[tuple[str, int, str, int], Response] = {}
        lines = list(_whole_lines(path)) if path.exists() else []
        if lines:
            self._check(lines[0], settings)
            for number, line in enumerate(lines[1:], start=2):
                self._read(number, line)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}") from error
        if not lines:
            self._write({"settings": dict(settings)})

    def of(self, conversation: Conversation) -> list[Response]:
        """What the file holds of a conversation, turns in order up to the first missing one."""
        held: list[Response] = []
        name, row, digest = conversation.dataset, conversation.row, conversation.digest
        for turn in range(len(conversation.turns)):
            response = self._kept.get((name, row, digest, turn))
            if response is None:
                break
            held.append(response)
        return held

    def done(self, conversation: Conversation) -> bool:
        return len(self.of(conversation)) == len(conversation.turns)

    def append(self, response: Response) -> None:
        self._kept[response.key] = response
        self._write(asdict(response))

    def close(self) -> None:
        self._file.close()

    def _check(self, line: str, settings: Mapping[str, Any]) -> None:
        try:
            found = json.loads(line)["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._path} is no file of responses") from error
        changed = describe_changes(found, json.loads(json.dumps(settings)))
        if changed:
            raise DataError(f"{self._path} is of an evaluation with other settings: {changed}")

    def _read(self, number: int, line: str) -> None:
        try:
            value = json.loads(line)
            value["speculative"] = Decoded.from_json(value["speculative"])
            if value["plain"] is not None:
                value["plain"] = Decoded.from_json(value["plain"])
            response = Response(**value)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._path}, line {number} is no response: {error!r}") from error
        self._kept[response.key] = response

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(value, separators=(",", ":")) + "\n")
        self._file.flush()


def _whole_lines(path: Path) -> Iterator[str]:
    """The lines of a file, after cutting off what an interrupted run left of a last one."""
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
        yield from content[:whole].decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
