"""The step that is measured against computes the same as the step that is measured."""

from dataclasses import replace

import numpy as np
import pytest
from mlx import optimizers
from mlx.utils import tree_flatten

from dflash_serve.bench.plain_step import PlainStep
from dflash_serve.training.step.objective import Objective
from dflash_serve.training.step.train_step import TrainStep
from tests.training.test_parity import VISIBLE, batch_of
from tests.training.worlds import DRAFTERS, make_world, sequences

pytestmark = pytest.mark.usefixtures("op_by_op")


def adamw(rate: float) -> optimizers.AdamW:
    return optimizers.AdamW(learning_rate=rate, weight_decay=0.0, bias_correction=True)


@pytest.mark.parametrize("name", DRAFTERS)
def test_both_steps_are_one(name: str) -> None:
    """Loss, gradients and the weights after two clipped updates."""
    world, other = make_world(name), make_world(name)
    examples = sequences()
    cleans = [world.clean(example) for example in examples]
    batch = replace(batch_of(examples, cleans, VISIBLE), final=None)
    plain = PlainStep(world.drafter, adamw(1e-3), clip=0.5)
    step = TrainStep(other.drafter, Objective(selector_alpha=0.0), adamw(0.0), clip=0.5)
    for _ in range(2):
        sums, gradients = step.gradients(batch)
        loss, wanted = plain.gradients(batch)
        np.testing.assert_allclose((sums["loss"] / sums["weight"]).item(), loss.item(), rtol=1e-5)
        for (key, found), (_, value) in zip(
            tree_flatten(gradients), tree_flatten(wanted), strict=True
        ):
            off = np.linalg.norm(np.array(found / sums["weight"] - value))
            assert off <= 1e-5 * np.linalg.norm(np.array(value)), key
        step.apply(gradients, sums["weight"], [1e-3])
        plain.step(batch)
