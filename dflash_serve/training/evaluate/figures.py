"""From responses to the figures of a data set. What each means: `dflash_serve.measure.figures`.

Pure arithmetic, no files, no models.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dflash_serve.measure.figures import (
    Acceptance,
    RoundCount,
    Slot,
    Speed,
    busy_seconds,
    histogram,
    ratio,
    slots,
    speedup_decode,
    speedup_end_to_end,
    time_per_output_token,
)
from dflash_serve.measure.intervals import Interval, mean_interval
from dflash_serve.training.evaluate.records import Decoded, Response


@dataclass(frozen=True, slots=True)
class Drafting:
    """Acceptance over many responses. None: the server does not tell.

    ``tokens_per_round_interval`` is None also where there are less than two conversations.
    ``published``: z-lab's tau for this drafter, data set and temperature, where there is one.
    """

    tokens_per_round: float | None = None
    tokens_per_round_pooled: float | None = None
    tokens_per_round_interval: Interval | None = None
    share_above_3: float | None = None
    share_above_5: float | None = None
    published: float | None = None
    rounds: int | None = None
    accepted_per_generated: float | None = None
    accepted_per_proposed: float | None = None
    histogram: tuple[int, ...] | None = None
    slots: tuple[Slot, ...] | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of one data set. Speedups are over plain decoding of the same prompts.

    differing: responses whose text is not plain decoding's, of ``compared``.
    """

    responses: int
    drafting: Drafting
    speculative: Speed
    plain: Speed | None
    speedup_end_to_end: float | None
    speedup_decode: float | None
    compared: int
    differing: int


def figures(
    responses: Sequence[Response], block: int | None, published: float | None = None
) -> Figures:
    """Figures of ``responses``; ``block`` is the block size, None if it is unknown."""
    paired = [one for one in responses if one.plain is not None]
    # a speedup compares both ways over the same turns, so turns without a plain twin do not count
    twin = _speed([one.speculative for one in paired])
    plain = _speed([one.plain for one in paired if one.plain is not None]) if paired else None
    compared = [one.same for one in responses if one.same is not None]
    return Figures(
        responses=len(responses),
        drafting=_drafting(responses, block, published),
        speculative=_speed([one.speculative for one in responses]),
        plain=plain,
        speedup_end_to_end=speedup_end_to_end(twin, plain) if plain else None,
        speedup_decode=speedup_decode(twin, plain) if plain else None,
        compared=len(compared),
        differing=compared.count(False),
    )


def _speed(listed: Sequence[Decoded]) -> Speed:
    return Speed(
        sum(one.tokens for one in listed),
        busy_seconds((one.started, one.ended) for one in listed),
        time_per_output_token((one.decode_seconds, one.tokens) for one in listed),
    )


def _drafting(
    responses: Sequence[Response], block: int | None, published: float | None
) -> Drafting:
    listed = [one.speculative for one in responses]
    if not listed or any(one.passes is None for one in listed):
        return Drafting(published=published)
    counts = [
        RoundCount((one.tokens_per_round or 0.0) * (one.passes or 0), one.passes or 0)
        for one in listed
    ]
    found = Acceptance.of(counts)
    counted = all(one.accepted is not None and one.drafted is not None for one in listed)
    accepted = sum(one.accepted or 0 for one in listed) if counted else None
    rounds = [one.rounds for one in listed if one.rounds is not None]
    every = [one for some in rounds for one in some]
    whole = block is not None and len(rounds) == len(listed)
    return Drafting(
        found.tokens_per_round if found.rounds else None,
        found.tokens_per_round_pooled if found.rounds else None,
        mean_interval(counts, [(one.dataset, one.row) for one in responses]),
        found.share_above_3 if found.rounds else None,
        found.share_above_5 if found.rounds else None,
        published,
        int(found.rounds),
        accepted_per_generated=ratio(accepted, sum(one.tokens for one in listed)),
        accepted_per_proposed=ratio(accepted, sum(one.drafted or 0 for one in listed)),
        histogram=tuple(histogram((one.committed for one in every), block or 0)) if whole else None,
        slots=slots(every, block or 0) if whole else None,
    )


def by_dataset(responses: Iterable[Response]) -> Mapping[str, list[Response]]:
    """Responses grouped by data set, sets in order of appearance."""
    groups: dict[str, list[Response]] = {}
    for one in responses:
        groups.setdefault(one.dataset, []).append(one)
    return groups
