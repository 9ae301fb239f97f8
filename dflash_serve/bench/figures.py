"""Figures of a run's answers, as results files hold them. What they mean: `measure.figures`."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dflash_serve.adapters.exactness import exact_path
from dflash_serve.measure.driver import Answer, Run
from dflash_serve.measure.figures import Acceptance, histogram, ratio, time_per_output_token


def acceptance(answers: Iterable[Answer], block: int) -> dict[str, Any]:
    """Figures of drafting; the histogram counts rounds by committed tokens, 0 to ``block``."""
    drafted_for = [answer for answer in answers if answer.rounds]
    rounds = [committed for answer in drafted_for for committed in answer.committed]
    generated = sum(answer.usage.completion_tokens for answer in drafted_for)
    drafted = sum(answer.usage.drafted for answer in drafted_for)
    accepted = sum(answer.usage.accepted for answer in drafted_for)
    return Acceptance.of(answer.count for answer in drafted_for).as_json() | {
        "histogram": histogram(rounds, block),
        "drafted": drafted,
        "accepted": accepted,
        "accepted_per_proposed": ratio(accepted, drafted),
        "accepted_per_generated": ratio(accepted, generated),
    }


def both_rounds(answers: Iterable[Answer]) -> dict[str, float]:
    """Both means of tokens per round."""
    found = Acceptance.of(answer.count for answer in answers)
    return {
        "tokens_per_round": found.tokens_per_round,
        "tokens_per_round_pooled": found.tokens_per_round_pooled,
    }


def seconds_per_token(answers: Iterable[Answer]) -> float | None:
    """`time_per_output_token` of a run's answers."""
    usages = [answer.usage for answer in answers]
    return time_per_output_token((one.decode_time, one.completion_tokens) for one in usages)


def by_kind(answers: Mapping[str, Answer], kinds: Mapping[str, str]) -> dict[str, list[Answer]]:
    """Answers grouped by their prompt's kind, kinds in alphabetical order."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for request_id, answer in answers.items():
        groups[kinds[request_id]].append(answer)
    return dict(sorted(groups.items()))


def differing(answers: Mapping[str, Answer], reference: Mapping[str, Sequence[int]]) -> list[str]:
    """Ids of requests whose tokens are not the reference's."""
    return [key for key, answer in answers.items() if tuple(answer.tokens) != reference[key]]


def unequal(different: int, what: str = "answers differ from plain decoding") -> tuple[str, ...]:
    """Why a command fails that found so many answers: only where tokens must be equal."""
    return (f"{different} {what}",) if different and exact_path() else ()


def short_of(
    cases: Iterable[Mapping[str, Any]], name: Callable[[Any], str], best: float, plain: float
) -> Iterator[str]:
    """Cases whose rate is below so much of the best fixed choice's, or of plain decoding's."""
    for case in cases:
        if case["of_best"] < best:
            yield f"{name(case)}: {case['of_best']:.3f} of the best fixed choice"
        if case["of_plain"] < plain:
            yield f"{name(case)}: {case['of_plain']:.3f} of plain decoding"


def tokens_of(run: Run) -> dict[str, tuple[int, ...]]:
    return {key: tuple(answer.tokens) for key, answer in run.answers.items()}
