"""run.json in a run's folder: what its drafter learned from and is worth, for model cards.

Plain facts in words and numbers. Knows no arrays.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from dflash_serve.atomic_files import replace_json
from dflash_serve.measure.errors import DataError
from dflash_serve.measure.intervals import Interval

FILE = "run.json"


class Worth(BaseModel):
    """Tokens per round of the drafter after ``step`` steps, on the answers that ``on`` describes.

    Of a VP-drafter: those behind a visible prefix. ``tokens_per_round_pooled`` and the interval are
    None where there is no such figure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    on: str
    tokens_per_round: float
    tokens_per_round_pooled: float | None = None
    tokens_per_round_interval: Interval | None = None

    def figures(self, name: str = "tokens per round") -> str:
        """``5.12 tokens per round (4.90 pooled; 95 % interval 4.80 to 5.44)``."""
        more = []
        if self.tokens_per_round_pooled is not None:
            more.append(f"{self.tokens_per_round_pooled:.2f} pooled")
        if (interval := self.tokens_per_round_interval) is not None:
            more.append(f"{100 * interval.level:.0f} % interval {interval}")
        return f"{self.tokens_per_round:.2f} {name}" + (f" ({'; '.join(more)})" if more else "")


class RunRecord(BaseModel):
    """``target`` as the run was given it; ``trained_on`` in words, with how many answers.

    ``reported``: the best drafter on answers that neither trained nor chose it, once it is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    trained_on: str
    reported: Worth | None = None

    def write(self, folder: Path) -> None:
        replace_json(folder / FILE, self.model_dump())


def read_record(folder: Path) -> RunRecord | None:
    """None where the folder has none.

    Raises:
        DataError: the file is not what a run writes.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read: {reason}") from error
