from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.qwen3 import Qwen3Target
from dflash_serve.measure.figures import Acceptance
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.guard import Diverged
from dflash_serve.training.run.loop import Measurement, Run
from dflash_serve.training.run.measure import walk_answers
from dflash_serve.training.run.schedule import Horizon, Schedule
from dflash_serve.training.run.trainer import StepReport, Trainer, TrainOptions
from tests.training.runs import Recorder

MakeDrafter = Callable[..., DFlashDrafter]


def train(
    drafter: DFlashDrafter, target: Qwen3Target, examples: list[Example], options: TrainOptions
) -> Recorder:
    store = FeatureStore(target, drafter.target_layer_ids, examples, 1 << 30)
    recorder = Recorder()
    trainer = Trainer(drafter, examples, store, options)

    def measure() -> Measurement:
        walks = walk_answers(drafter, store, examples, drafter.block_size)
        return Measurement(Acceptance.of(walks).tokens_per_round)

    Run(trainer, measure, [recorder]).go()
    return recorder


@pytest.mark.parametrize(("muon", "rate", "steps"), [(False, 8e-3, 120), (True, 0.03, 60)])
def test_a_few_sequences_are_learnt_by_heart(
    make_drafter: MakeDrafter, target: Qwen3Target, examples: list[Example],
    muon: bool, rate: float, steps: int,
) -> None:  # fmt: skip
    """Muon does so in half of AdamW's steps, at its own rate."""
    frozen = np.array(target.embed(mx.arange(61)))
    options = TrainOptions(
        Horizon(steps=steps), Schedule(rate), batch=3, anchors=12, gamma=4.0, bucket=32,
        measure_every=steps // 2, muon=muon,
    )  # fmt: skip
    recorder = train(make_drafter(), target, examples, options)
    first, last = recorder.steps[0], recorder.steps[-1]
    assert first.loss > 3.0
    assert last.loss < 0.4
    assert min(last.accuracy) > 0.95
    assert last.expected > 4.0
    assert [report.step for report in recorder.measured] == [steps // 2, steps]
    # 19, 17 and 3 tokens after the first one, at best 4 + 3 + 1 rounds of 6.
    assert recorder.measured[-1].value >= 0.9 * 39 / 8
    assert np.array_equal(np.array(target.embed(mx.arange(61))), frozen)


def test_the_same_seed_gives_the_same_weights(
    make_drafter: MakeDrafter, target: Qwen3Target, examples: list[Example]
) -> None:
    options = TrainOptions(Horizon(steps=3), batch=2, anchors=4, bucket=32, measure_every=2)

    def weights(seed: int) -> np.ndarray:
        drafter = make_drafter()
        train(drafter, target, examples, replace(options, seed=seed))
        flat = tree_flatten(drafter.model.parameters())
        return np.concatenate([np.array(value).reshape(-1) for _, value in flat])

    assert np.array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_an_exploding_loss_stops_the_run(
    make_drafter: MakeDrafter, target: Qwen3Target, examples: list[Example]
) -> None:
    drafter = make_drafter()
    drafter.model.norm.weight = mx.full((32,), float("inf"))
    with pytest.raises(Diverged, match="step 0"):
        train(drafter, target, examples, TrainOptions(Horizon(steps=2), batch=2, bucket=32))


def test_a_batch_that_is_not_full_learns_from_what_it_has(
    make_drafter: MakeDrafter, target: Qwen3Target, examples: list[Example]
) -> None:
    """Three examples in a batch of 4 are the same step as in one of 3; nothing counts twice."""

    def first(batch: int, accumulate: int = 1) -> StepReport:
        drafter = make_drafter()
        store = FeatureStore(target, drafter.target_layer_ids, examples, 1 << 30)
        options = TrainOptions(
            Horizon(steps=1), batch=batch, accumulate=accumulate, anchors=4, bucket=32
        )
        return Trainer(drafter, examples, store, options).step(0, 0.5, 0.0)

    whole = first(3)
    for padded in (first(4), first(8, accumulate=4)):
        assert padded.loss == pytest.approx(whole.loss, rel=1e-4)
        assert padded.norm == pytest.approx(whole.norm, rel=1e-4)
        assert (padded.accuracy, padded.tokens) == (whole.accuracy, whole.tokens)


def test_weight_decay_pulls_weights_towards_zero(
    make_drafter: MakeDrafter, target: Qwen3Target, examples: list[Example]
) -> None:
    def size(decay: float, muon: bool) -> float:
        drafter = make_drafter()
        options = TrainOptions(
            Horizon(steps=3), Schedule(0.02), batch=3, anchors=2, bucket=32, muon=muon,
            weight_decay=decay,
        )  # fmt: skip
        train(drafter, target, examples, options)
        flat = tree_flatten(drafter.model.parameters())
        return sum(float(mx.square(value).sum()) for _, value in flat)

    for muon in (False, True):
        assert size(5.0, muon) < 0.97 * size(0.0, muon)
