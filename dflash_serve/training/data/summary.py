"""What became of every row: faults by reason with their places, and totals over the answers."""

from dataclasses import dataclass
from time import monotonic
from typing import Any

from rich.table import Table

from dflash_serve.measure.errors import RowError
from dflash_serve.measure.figures import Acceptance, RoundCount
from dflash_serve.measure.tables import cell, facts
from dflash_serve.training.data.answers import Answer
from dflash_serve.training.data.generate import Answered

_SHOWN = 5
"""Places that are named for each reason; all are counted."""


class Faults:
    """Counts bad rows by reason. False if there are none."""

    def __init__(self) -> None:
        self.rows = 0
        """Rows read, good and bad."""
        self._places: dict[str, list[str]] = {}
        self._details: dict[str, str] = {}

    def add(self, place: str, error: RowError) -> None:
        self._places.setdefault(error.reason, []).append(place)
        self._details.setdefault(error.reason, error.detail)

    def __len__(self) -> int:
        return sum(len(places) for places in self._places.values())

    def __str__(self) -> str:
        """``not JSON: 2 (line 3, line 7); empty: 1 (line 9: no user message)``."""
        return "; ".join(
            f"{reason}: {len(places)} ({self.places(reason)})"
            for reason, places in self._places.items()
        )

    def places(self, reason: str) -> str:
        """The first places, and of the first one what exactly was wrong."""
        places, detail = self._places[reason], self._details[reason]
        named = [f"{places[0]}: {detail}" if detail else places[0], *places[1:_SHOWN]]
        more = [f"and {len(places) - _SHOWN} more"] if len(places) > _SHOWN else []
        return ", ".join([*named, *more])

    def as_json(self) -> dict[str, list[str]]:
        """Every place by reason."""
        return dict(self._places)


class Costs:
    """What this run's answers cost. Starts its clock when made."""

    def __init__(self) -> None:
        self._started = monotonic()
        self.rounds: list[RoundCount] = []
        self.seconds = 0.0
        self.tokens = 0
        self.cut_short: dict[str, int] = {}
        """Chats whose later turns were left out, by reason."""

    def add(self, chat: Answered) -> None:
        """One chat that is done."""
        for made in chat.generated:
            self.tokens += made.usage.completion_tokens
            self.rounds.append(made.count)
        if cut_short := chat.dialogue.cut_short:
            self.cut_short[cut_short.reason] = self.cut_short.get(cut_short.reason, 0) + 1
        self.seconds = monotonic() - self._started

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class Totals:
    """Over a whole answer file. ``open_ended`` answers have no stop token: a limit cut them.

    ``longest`` maps each row to the loss tokens of its longest sequence.
    """

    def __init__(self, stop_tokens: frozenset[int]) -> None:
        self._stop_tokens = stop_tokens
        self.longest: dict[int, int] = {}
        self.sequences = self.answers = self.tokens = self.answer_tokens = self.open_ended = 0

    def add(self, made: Answer) -> None:
        last = [int(made.tokens[end - 1]) for _, end in made.spans]
        self.longest[made.row] = max(made.loss_tokens, self.longest.get(made.row, 0))
        self.sequences += 1
        self.answers += len(last)
        self.tokens += len(made.tokens)
        self.answer_tokens += made.loss_tokens
        self.open_ended += sum(token not in self._stop_tokens for token in last)


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a run: rows and faults of all prompts, totals of the file, costs of this run."""

    faults: Faults
    totals: Totals
    costs: Costs
    speculative: bool

    @property
    def usable(self) -> int:
        return self.faults.rows - len(self.faults)

    def table(self) -> Table:
        rows = {"rows read": str(self.faults.rows), "usable": str(self.usable)}
        for reason, places in self.faults.as_json().items():
            rows[f"bad: {reason}"] = f"{len(places)}  ({self.faults.places(reason)})"
        for reason, count in self.costs.cut_short.items():
            rows[f"later turns left out: {reason}"] = str(count)
        rows |= {name.replace("_", " "): cell(value) for name, value in self._figures().items()}
        table = facts("", rows.items())
        table.box = None
        return table

    def as_json(self) -> dict[str, Any]:
        return {
            "rows_read": self.faults.rows,
            "usable": self.usable,
            "bad": self.faults.as_json(),
            "cut_short": self.costs.cut_short,
            **self._figures(),
        }

    def _figures(self) -> dict[str, float | int]:
        totals, costs = self.totals, self.costs
        figures: dict[str, float | int] = {
            "answers": totals.answers,
            "sequences": totals.sequences,
            "tokens": totals.tokens,
            "answer_tokens": totals.answer_tokens,
            "tokens_per_answer": totals.answer_tokens / max(1, totals.answers),
            "answers_cut_by_a_limit": totals.open_ended,
        }
        if costs.tokens:
            figures["tokens_per_second"] = costs.tokens_per_second
            if self.speculative:
                acceptance = Acceptance.of(costs.rounds)
                figures["tokens_per_round"] = acceptance.tokens_per_round
                figures["tokens_per_round_pooled"] = acceptance.tokens_per_round_pooled
        return figures
