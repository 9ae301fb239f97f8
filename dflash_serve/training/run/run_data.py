"""What a run learns from, chooses its best drafter by, and reports on: three sets of answers.

No conversation is in two of them, unless the user's own files say so, which is told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.checkpoint import fingerprint
from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.answers import Answer, AnswerSet, read_set, usable
from dflash_serve.training.data.example import Example
from dflash_serve.training.data.origin import check_origins, describe_parts
from dflash_serve.training.data.split import Subset, answer_marker, counted
from dflash_serve.training.run.settings import RunSettings

_HELD_SHARE, _MOST_HELD = 0.1, 128
"""Conversations that are held back of --data where there is no --heldout."""
_FEW = 32
"""Held-out conversations below which it is said that figures on them are rough."""

Say = Callable[[str], None]
Turn = tuple[Example, bytes]
"""One answer of a chat, and the name of its conversation."""


@dataclass(frozen=True, slots=True)
class RunData:
    """Examples; held-out ones are one turn each: rounds are walked over one answer at a time.

    ``reporting_names`` are those of their conversations. ``trained_on`` and ``reported_on`` say in
    words what the answers are.
    """

    train: list[Example]
    choosing: list[Example]
    reporting: list[Example]
    reporting_names: list[bytes]
    trained_on: str
    reported_on: str


def read_data(settings: RunSettings, directory: Path, target: TargetAdapter, say: Say) -> RunData:
    """The answers of --data and --heldout, parted; what is left out or doubtful is said."""
    paths = [path for path in (settings.data, settings.heldout) if path is not None]
    sets = {path: read_set(path) for path in paths}
    own = fingerprint(directory)
    for note in check_origins({path: found.parts for path, found in sets.items()}, own, directory):
        say(f"[yellow]note:[/] {note}")
    marker = answer_marker(directory)
    named = {
        path: _named(settings, path, found, target, marker, say) for path, found in sets.items()
    }
    if settings.heldout is None:
        held, train = hold_back(settings.data, named[settings.data])
    else:
        train, held = named[settings.data], named[settings.heldout]
        _tell_overlap(settings.data, train, held, say)
    choosing, reporting = _halves(settings.heldout or settings.data, held, say)
    told = {path: describe_parts(found.parts, own) for path, found in sets.items()}
    return RunData(
        [answer.example() for answer in train.answers],
        [turn for turn, _ in choosing],
        [turn for turn, _ in reporting],
        [name for _, name in reporting],
        told[settings.data],
        f"{len(reporting)} held-out answers that did not choose it, of "
        f"{told[settings.heldout or settings.data]}",
    )


def _named(
    settings: RunSettings,
    path: Path,
    found: AnswerSet,
    target: TargetAdapter,
    marker: Sequence[int],
    say: Say,
) -> Subset:
    """The usable answers of one file."""
    kept = usable_answers(settings, path, found.answers, target.max_context, say)
    for answer in kept:
        for token in (answer.tokens.min(), answer.tokens.max()):
            if not 0 <= token < target.vocab_size:
                raise DataError(
                    f"{path}, row {answer.row}: token {token}, but the target's vocabulary is "
                    f"{target.vocab_size}"
                )
    return Subset.of(kept, marker)


def usable_answers(
    settings: RunSettings, path: Path, answers: Sequence[Answer], context: int, say: Say
) -> list[Answer]:
    """Those that a run can learn from, of a target with so large a ``context``.

    Raises:
        DataError: none can be used.
    """
    longest = min(settings.max_length or context, context)
    kept, left_out = usable(answers, settings.min_loss_tokens, longest)
    reasons = [f"{count} answers left out, {reason}" for reason, count in left_out.items()]
    for reason in reasons:
        say(f"{path}: {reason}")
    if not kept:
        raise DataError(f"{path} holds no answer that can be used: {'; '.join(reasons)}")
    return kept


def held_back(conversations: int, told: str) -> int:
    """How many of them are not trained on where there is no --heldout: a tenth, at most 128.

    Raises:
        DataError: there are too few; begins with ``told``.
    """
    if conversations < 3:
        raise DataError(
            f"{told}: 3 conversations are needed to hold back one to choose by and one to report "
            "on; give --heldout or more data"
        )
    return max(2, min(_MOST_HELD, round(_HELD_SHARE * conversations)))


def hold_back(path: Path, answers: Subset) -> tuple[Subset, Subset]:
    """`held_back` conversations, chosen by a hash, and what is trained on."""
    told = f"{path} holds {counted(len(answers.answers), answers.conversations)}"
    count = held_back(answers.conversations, told)
    return answers.divided(list(answers.shares)[:count])


def _halves(path: Path, held: Subset, say: Say) -> tuple[list[Turn], list[Turn]]:
    """The held-out answers to choose by, and those to report on."""
    names = list(held.shares)
    if len(names) < 2:
        raise DataError(
            f"{path} holds {counted(len(held.answers), len(names))}: 2 conversations are needed, "
            "one to choose the best drafter by and one to report its worth on"
        )
    half = len(names) // 2
    choosing, reporting = (part.turns() for part in held.divided(names[:half]))
    say(
        f"the best drafter is chosen by {len(choosing)} answers of {half} conversations and "
        f"reported on {len(reporting)} of {len(names) - half} others"
    )
    if len(names) < _FEW:
        say(
            f"[yellow]note:[/] {len(names)} held-out conversations are few and figures on them "
            f"rough: {_FEW} or more are better"
        )
    return choosing, reporting


def _tell_overlap(path: Path, train: Subset, held: Subset, say: Say) -> None:
    both = set(held.names) & set(train.names)
    if both:
        say(
            f"[yellow]note:[/] {len(both)} of {held.conversations} held-out conversations are "
            f"also in {path}: on those the drafter is measured on what it has learnt"
        )
