"""The update of weights by portions: the same bits, beside which little else exists."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import optimizers
from mlx.utils import tree_flatten, tree_map

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.kernels.updates import AdamW
from dflash_serve.training.step.objective import Objective
from dflash_serve.training.step.train_step import TrainStep


def optimizer(muon: bool) -> optimizers.MultiOptimizer:
    adamw = AdamW(learning_rate=0.0)
    if not muon:
        return optimizers.MultiOptimizer([adamw])
    matrices = optimizers.Muon(learning_rate=0.0, weight_decay=0.0)
    return optimizers.MultiOptimizer([matrices, adamw], [lambda _, value: value.ndim == 2])


def updates(step: TrainStep, count: int, rates: list[float]) -> None:
    for number in range(count):
        mx.random.seed(number)
        gradients = tree_map(lambda value: mx.random.normal(value.shape), step.masters)
        step.apply(gradients, mx.array(2.0), rates)


@pytest.mark.parametrize("muon", [False, True])
def test_portions_change_no_bit(make_drafter: Callable[..., DFlashDrafter], muon: bool) -> None:
    rates = [1e-2, 1e-3][: 1 + muon]
    found: list[dict[str, Any]] = []
    for portion in (1 << 30, 10_000, 1):
        step = TrainStep(make_drafter(), Objective(), optimizer(muon), portion_bytes=portion)
        updates(step, 3, rates)
        model = dict(tree_flatten(step.drafter.model.parameters()))
        masters = dict(tree_flatten(step.masters))
        assert all(np.array_equal(model[name], value) for name, value in masters.items())
        found.append(masters | dict(tree_flatten(step.optimizer.state)))
    for other in found[1:]:
        assert list(other) == list(found[0])
        assert all(np.array_equal(other[name], value) for name, value in found[0].items())
    counted = [value for name, value in found[2].items() if name.endswith("step")]
    assert [int(value) for value in counted] == [3] * len(counted)


def test_no_second_copy_of_all_weights_and_their_state_exists(
    make_drafter: Callable[..., DFlashDrafter],
) -> None:
    """New weights and their state, all of them at once, would be three times the weights."""
    step = TrainStep(make_drafter(layers=16), Objective(), optimizer(False), portion_bytes=1 << 14)
    weights = sum(value.nbytes for _, value in tree_flatten(step.masters))
    gradients = tree_map(mx.ones_like, step.masters)
    step.apply(gradients, mx.array(1.0), [1e-3])
    mx.eval(gradients)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    step.apply(gradients, mx.array(1.0), [1e-3])
    assert mx.get_peak_memory() - before < weights
