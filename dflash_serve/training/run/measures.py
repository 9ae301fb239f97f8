"""What a drafter is worth while it is trained, on held-out answers shared by all processes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from rich.table import Table

from dflash_serve.measure.errors import DataError
from dflash_serve.measure.figures import Acceptance
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.loop import Measurement
from dflash_serve.training.run.measure import walk_answers
from dflash_serve.training.run.measure_prefix import PrefixTable, measure_prefixes
from dflash_serve.training.run.trainer import Trainer


@dataclass(slots=True)
class Measure(ABC):
    """Held-out examples, their features, and the trainer whose drafter is measured on them.

    ``name`` says what the value is; ``detail`` is more about the last one, as JSON.
    """

    trainer: Trainer
    features: FeatureStore
    examples: Sequence[Example]
    detail: dict[str, Any] | None = field(default=None, init=False)
    name: ClassVar[str]

    @abstractmethod
    def __call__(self) -> Measurement: ...

    @property
    def own(self) -> range:
        """The examples that this process measures."""
        processes = self.trainer.processes
        return range(processes.rank, len(self.examples), processes.size)


@dataclass(slots=True)
class RoundsMeasure(Measure):
    """Tokens per round over all answers, with blocks of ``width`` slots; None: as trained."""

    width: int | None = None
    name = "tokens per round"

    def __post_init__(self) -> None:
        trained = self.trainer.drafter.block_size
        if self.width is not None and not 2 <= self.width <= trained:
            raise DataError(
                f"--measure-block is {self.width}, but must be 2 to the drafter's block, {trained}"
            )

    def __call__(self) -> Measurement:
        drafter = self.trainer.drafter
        width = self.width or drafter.block_size
        walks = walk_answers(drafter, self.features, self.examples, width, indices=self.own)
        sums = self.trainer.processes.total(Acceptance.of(walks).sums())
        found = Acceptance(*sums)
        return Measurement(found.tokens_per_round, found.tokens_per_round_pooled)


class PrefixMeasure(Measure):
    """For a VP-drafter: tokens per round behind a visible prefix, the mean over its lengths."""

    name = "tokens per round behind a visible prefix"

    def __call__(self) -> Measurement:
        counts = measure_prefixes(
            self.trainer.drafter, self.features, self.examples, self.own
        ).counts
        total = self.trainer.processes.total(counts.reshape(-1).tolist())
        table = PrefixTable(np.array(total).reshape(counts.shape))
        self.detail = table.as_json()
        return Measurement(table.mean)


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
