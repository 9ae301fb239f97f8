"""What a server recorded (`dflash-serve --record`), and answer files of what was served before.

Reads files only. Lines are those of `server.recording`; a torn last line of a file is passed over.
"""

from dataclasses import dataclass
from pathlib import Path

from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.answers import Answer, parse_row, read_set, usable
from dflash_serve.training.data.lines import read_rows


@dataclass(frozen=True, slots=True)
class Records:
    """Usable answers with their prompts, in the order of recording.

    ``left_out`` counts what cannot be used by reason.
    """

    answers: list[Answer]
    left_out: dict[str, int]


def read_records(directory: Path, target: str, max_length: int) -> Records:
    """The records in ``directory`` that the target with fingerprint ``target`` can learn from.

    Raises:
        DataError: there are none, they are of another target or without prompts, or a line is
            damaged.
    """
    paths = sorted(directory.glob("records-*.jsonl"))
    if not paths:
        raise DataError(f"{directory} holds no records-*.jsonl: was --record given another folder?")
    answers: list[Answer] = []
    without, others = 0, []
    for path in paths:
        rows = read_rows(path, torn=True)
        _, header = next(rows, (0, {}))
        if header.get("target") != target:
            others.append(str(header.get("target")))
            continue
        for number, row in rows:
            if "answer" in row:
                answers += parse_row(path, number, row | {"row": len(answers)})
            else:
                without += 1
    if len(others) == len(paths):
        raise DataError(f"{directory} was recorded with target {others[0]}, but this is {target}")
    if without and not answers:
        raise DataError(
            f"{directory} was recorded with --no-record-prompts: without prompts the drafter's "
            "inputs cannot be computed, so there is nothing to learn from"
        )
    kept, reasons = usable(answers, min_loss_tokens=2, max_length=max_length)
    left_out = {f"answers: {reason}": count for reason, count in reasons.items()} | {
        "requests recorded without prompts": without,
        "files recorded with another target": len(others),
    }
    return Records(kept, {reason: count for reason, count in left_out.items() if count})


def read_replay(path: Path, target: str, max_length: int) -> list[Answer]:
    """The answers of a file that the target with fingerprint ``target`` can learn from.

    Raises:
        DataError: the file is damaged, or answers in it are of another target.
    """
    found = read_set(path)
    if others := [part for part in found.parts if part.origin.get("target") != target]:
        raise DataError(
            f"--replay {path}: {sum(part.answers for part in others)} of "
            f"{sum(part.answers for part in found.parts)} answers are of target "
            f"{others[0].origin.get('target')}, but this is {target}"
        )
    return usable(found.answers, min_loss_tokens=2, max_length=max_length)[0]
