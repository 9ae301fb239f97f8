"""From runs to figures: tokens per round, histograms, rates. Pure arithmetic over `drive.Run`."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from dflash_serve.bench.drive import Answer, Run
from dflash_serve.bench.report import middle


def acceptance(answers: Iterable[Answer], block: int) -> dict[str, Any]:
    """Figures of drafting; the histogram counts rounds by committed tokens, 0 to ``block``.

    tokens_per_round is the mean over responses of each response's mean; pooled is all committed
    tokens over all rounds. Bonus tokens count, tokens behind a stop do not.
    """
    drafted_for = [answer for answer in answers if answer.rounds]
    rounds = [count for answer in drafted_for for count in answer.rounds]
    generated = sum(answer.usage.completion_tokens for answer in drafted_for)
    drafted = sum(answer.usage.drafted for answer in drafted_for)
    accepted = sum(answer.usage.accepted for answer in drafted_for)
    counts = Counter(rounds)
    return {
        "responses": len(drafted_for),
        "rounds": len(rounds),
        "tokens_per_round": tokens_per_round(drafted_for),
        "tokens_per_round_pooled": sum(rounds) / len(rounds) if rounds else 0.0,
        "histogram": [counts[size] for size in range(block + 1)],
        "drafted": drafted,
        "accepted": accepted,
        "accepted_per_drafted": accepted / drafted if drafted else 0.0,
        "accepted_per_generated": accepted / generated if generated else 0.0,
    }


def tokens_per_round(answers: Iterable[Answer]) -> float:
    """Mean over responses of the mean committed tokens of their rounds."""
    means = [fmean(answer.rounds) for answer in answers if answer.rounds]
    return fmean(means) if means else 0.0


def rate_of(answers: Iterable[Answer]) -> float:
    """Tokens after the first over the requests' own decoding seconds: one request's speed."""
    listed = list(answers)
    seconds = sum(answer.usage.decode_time for answer in listed)
    tokens = sum(max(0, answer.usage.completion_tokens - 1) for answer in listed)
    return tokens / seconds if seconds else 0.0


def by_kind(answers: Mapping[str, Answer], kinds: Mapping[str, str]) -> dict[str, list[Answer]]:
    """Answers grouped by their prompt's kind, kinds in alphabetical order."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for request_id, answer in answers.items():
        groups[kinds[request_id]].append(answer)
    return dict(sorted(groups.items()))


def rates_by_kind(runs: Sequence[Run], kinds: Mapping[str, str]) -> dict[str, float]:
    """Per kind the median over runs of `rate_of`."""
    grouped = [by_kind(run.answers, kinds) for run in runs]
    return {kind: middle([rate_of(group[kind]) for group in grouped]) for kind in grouped[0]}


def differing(answers: Mapping[str, Answer], reference: Mapping[str, Sequence[int]]) -> list[str]:
    """Ids of requests whose tokens are not the reference's."""
    return [key for key, answer in answers.items() if tuple(answer.tokens) != reference[key]]


def tokens_of(run: Run) -> dict[str, tuple[int, ...]]:
    return {key: tuple(answer.tokens) for key, answer in run.answers.items()}
