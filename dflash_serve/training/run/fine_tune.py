"""A short run from a drafter that is there; writes nothing and returns the best weights."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import mlx.core as mx
from rich.console import Console

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.training.data.answers import Answer
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.loop import Listener, MeasureReport, Run
from dflash_serve.training.run.measure import RoundsMeasure
from dflash_serve.training.run.trainer import Trainer, TrainOptions
from dflash_serve.training.run.view import view_of

_FEATURE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Tuned:
    """Weights, the measurement by which they were chosen, and how they were trained."""

    weights: dict[str, mx.array]
    chosen: MeasureReport
    options: TrainOptions


def fine_tune(
    drafter: DFlashDrafter,
    target: TargetAdapter,
    train: Sequence[Answer],
    choosing: Sequence[Answer],
    options: TrainOptions,
    console: Console,
) -> Tuned:
    """Train ``drafter`` in place; the weights that were best on ``choosing`` at any time."""
    layers, examples = drafter.target_layer_ids, [answer.example() for answer in train]
    features = FeatureStore(target, layers, examples, _FEATURE_BYTES)
    trainer = Trainer(drafter, examples, features, options)
    seen = [turn for answer in choosing for turn in answer.turns()]
    seen_features = FeatureStore(target, layers, seen, _FEATURE_BYTES)
    measure = RoundsMeasure(trainer, seen_features, seen, drafter.runtime_block_size)
    best = _Best(trainer)
    with closing(view_of(console, measure.name, 0.0)) as view:
        Run(trainer, measure, [best, view]).go()
    assert best.tuned is not None  # a run ends with a measurement
    return best.tuned


class _Best(Listener):
    """Keeps the weights that were measured best."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.tuned: Tuned | None = None

    def on_measure(self, report: MeasureReport) -> None:
        if report.best:
            self.tuned = Tuned(self._trainer.masters(), report, self._trainer.options)
