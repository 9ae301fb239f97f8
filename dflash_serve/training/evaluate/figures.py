"""From responses to figures, per data set and in total. Pure arithmetic, no files, no models.

Definitions are those of z-lab's protocol; what it leaves open is said at each figure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dflash_serve.measure.driver import Round
from dflash_serve.training.evaluate.records import Decoded, Response


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


@dataclass(frozen=True, slots=True)
class Drafting:
    """Acceptance over many responses. None: the server does not tell.

    tokens_per_round: mean over responses of each one's mean committed tokens per verify pass,
    bonus included, cut at the stop. pooled: all committed tokens over all passes. histogram:
    passes by committed tokens, 0 to the block size.
    """

    tokens_per_round: float | None
    pooled: float | None
    passes: int | None
    accepted_per_generated: float | None
    accepted_per_proposed: float | None
    histogram: tuple[int, ...] | None
    slots: tuple[Slot, ...] | None


@dataclass(frozen=True, slots=True)
class Speed:
    """One way to decode, over many responses.

    time_per_output_token: mean over responses of seconds after the first token / all its tokens.
    wall_seconds: the time during which at least one response was under way, prefill included.
    """

    tokens: int
    wall_seconds: float
    time_per_output_token: float | None

    @property
    def tokens_per_second(self) -> float | None:
        """End to end: all tokens over the wall clock."""
        return self.tokens / self.wall_seconds if self.wall_seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of one data set. Speedups are over plain decoding of the same prompts.

    decode_speedup: ratio of both ways' time_per_output_token. end_to_end_speedup: ratio of their
    tokens_per_second. differing: responses whose text is not plain decoding's, of ``compared``.
    """

    responses: int
    drafting: Drafting
    speculative: Speed
    plain: Speed | None
    decode_speedup: float | None
    end_to_end_speedup: float | None
    compared: int
    differing: int


def figures(responses: Sequence[Response], block: int | None) -> Figures:
    """Figures of ``responses``; ``block`` is the block size, None if it is unknown."""
    paired = [one for one in responses if one.plain is not None]
    speculative = _speed([one.speculative for one in responses])
    # a speedup compares both ways over the same turns, so turns without a plain twin do not count
    twin = _speed([one.speculative for one in paired])
    plain = _speed([one.plain for one in paired if one.plain is not None]) if paired else None
    compared = [one.same for one in responses if one.same is not None]
    return Figures(
        responses=len(responses),
        drafting=_drafting([one.speculative for one in responses], block),
        speculative=speculative,
        plain=plain,
        decode_speedup=_decode_speedup(plain, twin),
        end_to_end_speedup=_end_to_end_speedup(plain, twin),
        compared=len(compared),
        differing=compared.count(False),
    )


def mean_of(values: Iterable[float | None]) -> float | None:
    """The unweighted mean; None where one is unknown or there are none."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    return fmean(known) if known and len(known) == len(listed) else None


def histogram(rounds: Iterable[Round], block: int) -> tuple[int, ...]:
    """Rounds by committed tokens, 0 to ``block``."""
    counts = Counter(one.committed for one in rounds)
    return tuple(counts[size] for size in range(block + 1))


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
        share = kept / len(had) if had else 0.0
        made.append(Slot(slot, len(had), share, kept / judged if judged else None))
    return tuple(made)


def busy_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of [start, end] intervals: gaps between them do not count."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _speed(listed: Sequence[Decoded]) -> Speed:
    per_token = [
        None if one.decode_seconds is None else one.decode_seconds / one.tokens
        for one in listed
        if one.tokens
    ]
    return Speed(
        sum(one.tokens for one in listed),
        busy_seconds((one.started, one.ended) for one in listed),
        mean_of(per_token),
    )


def _drafting(listed: Sequence[Decoded], block: int | None) -> Drafting:
    told = [one for one in listed if one.passes is not None]
    if not told or len(told) < len(listed):
        return Drafting(None, None, None, None, None, None, None)
    drafted = [one for one in told if one.passes and one.tokens_per_round is not None]
    passes = sum(one.passes or 0 for one in drafted)
    committed = sum((one.tokens_per_round or 0.0) * (one.passes or 0) for one in drafted)
    counted = all(one.accepted is not None and one.drafted is not None for one in told)
    accepted = sum(one.accepted or 0 for one in told)
    rounds = [one.rounds for one in told if one.rounds is not None]
    every = [one for some in rounds for one in some]
    whole = block is not None and len(rounds) == len(told)
    return Drafting(
        tokens_per_round=mean_of(one.tokens_per_round for one in drafted),
        pooled=committed / passes if passes else None,
        passes=passes,
        accepted_per_generated=_share(accepted, sum(one.tokens for one in told), counted),
        accepted_per_proposed=_share(accepted, sum(one.drafted or 0 for one in told), counted),
        histogram=histogram(every, block) if block is not None and whole else None,
        slots=slots(every, block) if block is not None and whole else None,
    )


def _decode_speedup(plain: Speed | None, speculative: Speed) -> float | None:
    if plain is None:
        return None
    return _ratio(plain.time_per_output_token, speculative.time_per_output_token)


def _end_to_end_speedup(plain: Speed | None, speculative: Speed) -> float | None:
    if plain is None:
        return None
    return _ratio(speculative.tokens_per_second, plain.tokens_per_second)


def _share(part: int, whole: int, known: bool) -> float | None:
    return part / whole if known and whole else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def by_dataset(responses: Iterable[Response]) -> Mapping[str, list[Response]]:
    """Responses grouped by data set, sets in order of appearance."""
    groups: dict[str, list[Response]] = {}
    for one in responses:
        groups.setdefault(one.dataset, []).append(one)
    return groups
