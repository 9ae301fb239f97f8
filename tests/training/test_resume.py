"""A run that was stopped and taken up again is the run that was never stopped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.qwen3 import Qwen3Target
from dflash_serve.measure.errors import DataError
from dflash_serve.measure.figures import Acceptance
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.checkpoint import CheckpointError, CheckpointStore
from dflash_serve.training.run.guard import Diverged
from dflash_serve.training.run.loop import Ending, Measurement, Run
from dflash_serve.training.run.measure import walk_answers
from dflash_serve.training.run.schedule import Horizon, Schedule
from dflash_serve.training.run.trainer import StepReport, Trainer, TrainOptions
from tests.training.runs import Recorder

MakeDrafter = Callable[..., DFlashDrafter]
MakeRun = Callable[..., "Watched"]

OPTIONS = TrainOptions(
    Horizon(steps=8),
    schedule=Schedule(8e-3, "wsd"),
    batch=2,
    anchors=4,
    bucket=32,
    measure_every=3,
    checkpoint_every=100,
)


class Watched(Recorder):
    """A run that remembers what it told, and stops behind ``stop_at`` steps."""

    def __init__(self, trainer: Trainer, store: CheckpointStore, features: FeatureStore) -> None:
        super().__init__()
        self.stop_at: int | None = None
        self.trainer = trainer

        def measure() -> Measurement:
            walks = walk_answers(trainer.drafter, features, trainer.examples, 6)
            return Measurement(Acceptance.of(walks).tokens_per_round)

        self.run = Run(trainer, measure, [self], store, stop=self._stop)

    def _stop(self) -> bool:
        return self.stop_at is not None and len(self.steps) >= self.stop_at

    @property
    def losses(self) -> list[float]:
        return [report.loss for report in self.steps]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in self.trainer.state().items()}


@pytest.fixture
def make_run(
    make_drafter: MakeDrafter, target: Qwen3Target, examples: list[Example], tmp_path: Path
) -> MakeRun:
    def make(folder: str, options: TrainOptions = OPTIONS) -> Watched:
        drafter = make_drafter()
        features = FeatureStore(target, drafter.target_layer_ids, examples, 1 << 30)
        trainer = Trainer(drafter, examples, features, options)
        return Watched(trainer, CheckpointStore(tmp_path / folder), features)

    return make


def different(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> list[str]:
    assert one.keys() == two.keys()
    return [name for name in one if one[name].tobytes() != two[name].tobytes()]


@pytest.mark.parametrize("change", [{}, {"muon": True}, {"compute_dtype": "bfloat16"}])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    make_run: MakeRun, change: dict[str, object]
) -> None:
    options = replace(OPTIONS, **change)
    whole, first, second = (make_run(name, options) for name in ("whole", "cut", "cut"))
    assert whole.run.go().ending is Ending.FINISHED
    first.stop_at = 4
    assert first.run.go().ending is Ending.STOPPED
    mx.random.seed(99)  # what else happens in the process must not matter
    second.run.resume(second.run.store.newest())
    outcome = second.run.go()
    assert first.losses + second.losses == whole.losses
    assert [r.rate for r in first.steps + second.steps] == [r.rate for r in whole.steps]
    assert first.measured + second.measured == whole.measured
    assert different(second.weights, whole.weights) == []
    assert replace(outcome.position, seconds=0) == replace(whole.run.position, seconds=0)


def test_a_finished_run_stays_finished(make_run: MakeRun) -> None:
    run, again = make_run("one"), make_run("one")
    run.run.go()
    again.run.resume(again.run.store.newest())
    assert again.run.go().ending is Ending.FINISHED
    assert again.steps == []
    assert different(again.weights, run.weights) == []


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(make_run: MakeRun) -> None:
    run = make_run("nan", replace(OPTIONS, checkpoint_every=2))

    def spoil() -> bool:
        if len(run.steps) == 5:
            state = run.trainer.state() | {"masters.norm.weight": mx.full((32,), float("nan"))}
            run.trainer.restore(state, 5)
        return False

    run.run.stop = spoil
    with pytest.raises(Diverged, match=r"step 5; the last good .*step-00000004"):
        run.run.go()
    assert [f.name for f in run.run.store.folders()] == ["step-00000002", "step-00000004"]


def test_state_of_another_drafter_is_refused(make_run: MakeRun) -> None:
    run = make_run("one")
    state = run.trainer.state()
    state["masters.norm.weight"] = mx.zeros(31)
    with pytest.raises(CheckpointError, match=r"another drafter: masters\.norm\.weight"):
        run.trainer.restore(state, 1)


def gradients(trainer: Trainer) -> list[StepReport]:
    return [trainer.step(step, 0.5, 0.0) for step in range(3)]


def test_parts_of_a_batch_add_up_to_the_batch(
    make_drafter: MakeDrafter, target: Qwen3Target, examples: list[Example]
) -> None:
    """Unequal weights per part: a mean of the parts' means would not do."""

    def reports(parts: int) -> list[StepReport]:
        drafter = make_drafter()
        features = FeatureStore(target, drafter.target_layer_ids, examples, 1 << 30)
        options = replace(OPTIONS, batch=4, accumulate=parts)
        return gradients(Trainer(drafter, examples, features, options))

    whole = reports(1)
    for parts in (2, 4):
        for one, other in zip(whole, reports(parts), strict=True):
            assert other.loss == pytest.approx(one.loss, rel=1e-4)
            assert other.norm == pytest.approx(one.norm, rel=1e-4)
            assert other.accuracy == one.accuracy


def test_a_batch_that_cannot_be_shared_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(DataError, match="a batch of 2 cannot be shared"):
        make_run("one", replace(OPTIONS, accumulate=3))
