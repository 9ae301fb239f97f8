"""What the project's figures mean: one definition each, for runs, evaluations and benchmarks.

Pure arithmetic over counts and seconds. Knows no engine, no files and no models.

tokens_per_round: the mean over responses of each one's mean committed tokens per verify pass, the
    bonus token included, cut at the stop. A response is one turn. z-lab's script reports this as
    its acceptance length, published as tau.
tokens_per_round_pooled: all committed tokens over all verify passes. Long responses weigh more.
speedup_end_to_end: ratio of tokens per wall second, prompts included.
speedup_decode: ratio of the times per output token, which begin behind the first token.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean, median
from typing import NamedTuple


class Round(NamedTuple):
    """One verify pass of one request.

    ``proposed`` drafts were verified, ``accepted`` of them kept; ``committed`` tokens came of it,
    the bonus token and a final stop token included. A round that ends at a stop token among its
    drafts has no bonus token: ``committed`` equals ``accepted``, and later drafts were not judged.
    """

    proposed: int
    accepted: int
    committed: int


@dataclass(frozen=True, slots=True)
class RoundCount:
    """One response: ``rounds`` verify passes committed ``tokens``, without its first token."""

    tokens: float
    rounds: int

    @property
    def mean(self) -> float:
        return self.tokens / self.rounds if self.rounds else 0.0


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Sums over responses that had rounds; they add up over processes. Figures: 0.0 of nothing."""

    responses: float = 0.0
    means: float = 0.0
    tokens: float = 0.0
    rounds: float = 0.0
    above_3: float = 0.0
    above_5: float = 0.0

    @classmethod
    def of(cls, responses: Iterable[RoundCount]) -> "Acceptance":
        drafted = [one for one in responses if one.rounds]
        means = [one.mean for one in drafted]
        return cls(
            len(drafted),
            sum(means),
            sum(one.tokens for one in drafted),
            sum(one.rounds for one in drafted),
            sum(mean > 3 for mean in means),
            sum(mean > 5 for mean in means),
        )

    def sums(self) -> list[float]:
        """For `Acceptance(*sums)` after they were added up elsewhere."""
        return [float(value) for value in astuple(self)]

    @property
    def tokens_per_round(self) -> float:
        return ratio(self.means, self.responses) or 0.0

    @property
    def tokens_per_round_pooled(self) -> float:
        return ratio(self.tokens, self.rounds) or 0.0

    @property
    def share_above_3(self) -> float:
        """Of the responses, those with more than 3 tokens per round."""
        return ratio(self.above_3, self.responses) or 0.0

    @property
    def share_above_5(self) -> float:
        return ratio(self.above_5, self.responses) or 0.0

    def as_json(self) -> dict[str, float]:
        return {
            "responses": int(self.responses),
            "rounds": int(self.rounds),
            "tokens_per_round": self.tokens_per_round,
            "tokens_per_round_pooled": self.tokens_per_round_pooled,
            "share_above_3": self.share_above_3,
            "share_above_5": self.share_above_5,
        }


@dataclass(frozen=True, slots=True)
class Speed:
    """One way to decode, over many responses.

    wall_seconds: the time during which at least one response was under way, prefill included.
    time_per_output_token: as the function of that name; None where a server does not tell.
    """

    tokens: int
    wall_seconds: float
    time_per_output_token: float | None

    @property
    def tokens_per_second(self) -> float | None:
        """End to end: all tokens over the wall clock."""
        return ratio(self.tokens, self.wall_seconds)


def time_per_output_token(responses: Iterable[tuple[float | None, int]]) -> float | None:
    """Mean over responses of seconds behind the first token / all tokens; None if one is unknown.

    Responses without tokens do not count.
    """
    return mean_of(
        None if seconds is None else seconds / tokens for seconds, tokens in responses if tokens
    )


def speedup_decode(drafted: Speed, plain: Speed) -> float | None:
    return ratio(plain.time_per_output_token, drafted.time_per_output_token)


def speedup_end_to_end(drafted: Speed, plain: Speed) -> float | None:
    return ratio(drafted.tokens_per_second, plain.tokens_per_second)


@dataclass(frozen=True, slots=True)
class Slot:
    """How often the draft in one slot of the block was kept.

    ``proposed``: rounds that had this slot. ``share``: of those, the rounds in which it was
    accepted. ``conditional``: of the rounds in which all slots before it were accepted and this
    one was judged; None if there were none.
    """

    slot: int
    proposed: int
    share: float
    conditional: float | None


def slots(rounds: Sequence[Round], block: int) -> tuple[Slot, ...]:
    """Acceptance of slots 1 to ``block`` - 1."""
    made = []
    for slot in range(1, block):
        had = [one for one in rounds if one.proposed >= slot]
        kept = sum(one.accepted >= slot for one in had)
        # a stop token among the drafts ends the round: later slots were not judged
        judged = sum(
            one.accepted >= slot or (one.accepted == slot - 1 and one.committed > one.accepted)
            for one in had
        )
        made.append(Slot(slot, len(had), ratio(kept, len(had)) or 0.0, ratio(kept, judged)))
    return tuple(made)


def histogram(committed: Iterable[int], block: int) -> list[int]:
    """Rounds by committed tokens, 0 to ``block``."""
    counts = Counter(committed)
    return [counts[size] for size in range(block + 1)]


def busy_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of [start, end] intervals: gaps between them do not count."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def ratio(above: float | None, below: float | None) -> float | None:
    """None where one is unknown or there is nothing to divide by."""
    return above / below if above is not None and below else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """The unweighted mean; None where one is unknown or there are none."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    return fmean(known) if known and len(known) == len(listed) else None


def middle(values: Sequence[float]) -> float:
    """The median; 0.0 of nothing."""
    return median(values) if values else 0.0


def percentile(values: Sequence[float], percent: int) -> float:
    """Nearest rank: the least value that ``percent`` % of all do not exceed; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)] if ordered else 0.0
