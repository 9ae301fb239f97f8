"""What a drafter is worth while it is trained, on held-out answers shared by all processes."""

from collections.abc import Sequence
from typing import Any, Protocol

from rich.table import Table

from dflash_serve.measure.errors import DataError
from dflash_serve.measure.figures import Acceptance
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.loop import Measurement
from dflash_serve.training.run.measure import walk_answers
from dflash_serve.training.run.measure_prefix import PrefixTable, measure_prefixes
from dflash_serve.training.run.trainer import Trainer


class Measure(Protocol):
    """``name`` says what the value is; ``detail`` is more about the last one, as JSON."""

    name: str

    def __call__(self) -> Measurement: ...

    @property
    def detail(self) -> dict[str, Any] | None: ...


class RoundsMeasure:
    """Tokens per round over all answers, with blocks of ``width`` slots."""

    name = "tokens per round"
    detail = None

    def __init__(
        self,
        trainer: Trainer,
        features: FeatureStore,
        examples: Sequence[Example],
        width: int | None,
    ) -> None:
        self._trainer, self._features, self._examples = trainer, features, examples
        trained = trainer.drafter.block_size
        self._width = trained if width is None else width
        if not 2 <= self._width <= trained:
            raise DataError(
                f"--measure-block is {width}, but must be 2 to the drafter's block, {trained}"
            )

    def __call__(self) -> Measurement:
        processes = self._trainer.processes
        walks = walk_answers(
            self._trainer.drafter,
            self._features,
            self._examples,
            self._width,
            indices=range(processes.rank, len(self._examples), processes.size),
        )
        found = Acceptance(*processes.total(Acceptance.of(walks).sums()))
        return Measurement(found.tokens_per_round, found.tokens_per_round_pooled)


class PrefixMeasure:
    """For a VP-drafter: tokens per round behind a visible prefix, the mean over its lengths."""

    name = "tokens per round behind a visible prefix"

    def __init__(
        self, trainer: Trainer, features: FeatureStore, examples: Sequence[Example]
    ) -> None:
        self._trainer, self._features, self._examples = trainer, features, examples
        self._table: PrefixTable | None = None

    def __call__(self) -> Measurement:
        processes, drafter = self._trainer.processes, self._trainer.drafter
        indices = range(processes.rank, len(self._examples), processes.size)
        table = measure_prefixes(drafter, self._features, self._examples, indices)
        self._table = PrefixTable.from_flat(processes.total(table.flat()), drafter.block_size)
        return Measurement(self._table.mean)

    @property
    def detail(self) -> dict[str, Any] | None:
        return self._table.as_json() if self._table else None


def prefix_table(detail: dict[str, Any]) -> Table:
    """Accuracy by visible slots (rows) and slot (columns), for a terminal."""
    table = Table(title="accuracy by visible slots and slot")
    table.add_column("visible", justify="right")
    for slot in detail["visible"]:
        table.add_column(str(slot), justify="right")
    table.add_column("tokens per round", justify="right")
    for visible, row, expected in zip(
        detail["visible"], detail["accuracy"], detail["tokens_per_round"], strict=True
    ):
        shares = ["" if share is None else f"{share:.2f}" for share in row]
        table.add_row(str(visible), *shares, f"{expected:.2f}")
    return table
