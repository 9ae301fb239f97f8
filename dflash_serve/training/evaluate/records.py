"""What one turn cost, decoded speculatively and plainly, and the file that keeps all of them.

An evaluation that was interrupted goes on from that file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dflash_serve.measure.errors import DataError
from dflash_serve.measure.figures import Round
from dflash_serve.training.data.lines import LinesFile, Row
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


_RESPONSE = TypeAdapter(Response)
Take = Callable[[Response | Failure], None]
"""Gets every answer as it comes."""


class ResponseFile(LinesFile):
    """Appends responses as they are made. Of several lines for one turn the last counts."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._kept: dict[tuple[str, int, str, int], Response] = {}
        super().__init__(path, settings, self._take, under="settings")

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
        self.write(asdict(response))

    def _take(self, number: int, value: Row) -> None:
        try:
            response = _RESPONSE.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(
                f"{self._path}, line {number} is no response: {place}: {first['msg']}"
            ) from error
        self._kept[response.key] = response
