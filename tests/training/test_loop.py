"""When a run measures, saves and ends, with a trainer whose losses are written down."""

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.training.run.checkpoint import CheckpointStore
from dflash_serve.training.run.distributed import Processes
from dflash_serve.training.run.guard import Diverged
from dflash_serve.training.run.loop import Ending, Measurement, Run
from dflash_serve.training.run.schedule import Horizon
from dflash_serve.training.run.trainer import StepReport, TrainOptions
from tests.training.runs import Recorder


class Scripted:
    """Steps that lose what they are told to."""

    def __init__(self, losses: Iterator[float], options: TrainOptions) -> None:
        self.options, self.horizon, self.processes = options, options.horizon, Processes()
        self._losses = losses

    def step(self, step: int, progress: float, seconds: float) -> StepReport:
        loss = next(self._losses)
        return StepReport(step, progress, seconds, loss, 1.0, (0.5,), 1.5, 1.0, 8, 0)

    def state(self) -> dict[str, mx.array]:
        return {"masters.x": mx.zeros(1)}

    def restore(self, arrays: dict[str, mx.array] | None, step: int) -> None:
        pass


MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(
        *,
        losses: Iterator[float] | None = None,
        worth: Iterator[float] | None = None,
        keep: int = 2,
        **rest: Any,
    ) -> Run:
        options = TrainOptions(**{"horizon": Horizon(steps=10), **rest})
        trainer: Any = Scripted(losses or repeat(2.0), options)
        values = worth or repeat(1.0)
        store = CheckpointStore(tmp_path, keep)
        return Run(trainer, lambda: Measurement(next(values)), [Recorder()], store)

    return make


def saved(run: Run) -> list[int]:
    assert run.store is not None
    return [int(folder.name.removeprefix("step-")) for folder in run.store.folders()]


def test_checkpoints_come_every_so_many_steps_and_at_the_end(make_run: MakeRun) -> None:
    run = make_run(checkpoint_every=4, keep=9)
    assert run.go().ending is Ending.FINISHED
    assert saved(run) == [0, 4, 8, 10]


def test_measurements_come_every_so_many_steps_and_at_the_end(make_run: MakeRun) -> None:
    run = make_run(measure_every=4, worth=iter([2.0, 3.0, 1.0]))
    outcome = run.go()
    (recorder,) = run.listeners
    assert isinstance(recorder, Recorder)
    told = [(r.step, r.value, r.best) for r in recorder.measured]
    assert told == [(4, 2.0, True), (8, 3.0, True), (10, 1.0, False)]
    assert (outcome.position.best, outcome.position.best_step) == (3.0, 8)


def test_a_run_that_gets_no_better_ends_early_and_stays_ended(make_run: MakeRun) -> None:
    worth = iter([1.0, 3.0, 2.0, 2.5, 3.0, 9.0])
    run = make_run(measure_every=1, patience=3, worth=worth)
    outcome = run.go()
    assert outcome.ending is Ending.NO_BETTER
    assert (outcome.position.step, outcome.position.best_step, outcome.position.best) == (5, 2, 3.0)
    again = make_run(measure_every=1, patience=3, worth=worth)
    assert again.store is not None
    again.resume(again.store.newest())
    assert again.go() == outcome


def test_a_wish_to_stop_is_granted_after_the_step_with_a_checkpoint(make_run: MakeRun) -> None:
    run = make_run()
    run.stop = lambda: run.position.step == 2  # asked before the third step is counted
    assert run.go().ending is Ending.STOPPED
    assert saved(run) == [0, 3]


def test_an_exploded_loss_stops_and_is_not_saved(make_run: MakeRun) -> None:
    losses = chain(repeat(2.0, 60), repeat(9.0))
    run = make_run(horizon=Horizon(steps=500), checkpoint_every=20, losses=losses)
    with pytest.raises(Diverged, match=r"exploded: 9 at step 67; .*step-00000060"):
        run.go()
    assert saved(run) == [40, 60]


def test_a_high_loss_while_warming_up_is_no_explosion(make_run: MakeRun) -> None:
    losses = chain(repeat(2.0, 60), repeat(9.0, 12), repeat(2.0))
    run = make_run(horizon=Horizon(steps=2000), checkpoint_every=500, losses=losses)
    assert run.go().ending is Ending.FINISHED


def test_a_resumed_run_remembers_what_losses_were_usual(make_run: MakeRun) -> None:
    run = make_run(horizon=Horizon(steps=500), losses=repeat(2.0))
    run.stop = lambda: run.position.step == 59
    run.go()
    again = make_run(horizon=Horizon(steps=500), losses=repeat(9.0))
    assert again.store is not None
    again.resume(again.store.newest())
    with pytest.raises(Diverged, match="at step 67"):
        again.go()
