"""Four sequences learnt by heart: the real engine then accepts nearly whole blocks."""

import numpy as np
import pytest
from mlx import optimizers

from dflash_serve.engine.types import EngineRequest
from dflash_serve.training.data.example import Example
from dflash_serve.training.step.blocks import BlockRecipe, make_blocks
from dflash_serve.training.step.objective import Objective
from dflash_serve.training.step.train_step import TrainStep
from tests.engine.test_exactness import generate
from tests.training.worlds import BLOCK, make_world, step_batch

ROUNDS, STEPS, LENGTH = 5, 100, 48


@pytest.mark.parametrize("name", ["v1", "dflash2"])
def test_four_sequences_are_drafted_by_heart(name: str) -> None:
    """At least 90 % of the block size per round, text as in plain decoding."""
    world = make_world(name)
    rng = np.random.default_rng(4)
    answer = 1 + ROUNDS * BLOCK  # the first token belongs to no round
    work = [EngineRequest(str(i), tuple(rng.integers(0, 50, 6).tolist()), answer) for i in range(4)]
    plain = generate((world.target, None), work, block=1, batch=4, compiled=False)[0]
    examples = [
        Example(
            np.array([*request.prompt, *plain[request.id]], np.int32),
            np.arange(6 + answer) >= 6,
        )
        for request in work
    ]
    adamw = optimizers.AdamW(learning_rate=0.0, weight_decay=0.0, bias_correction=True)
    step = TrainStep(world.drafter, Objective(), adamw)
    cleans = [world.clean(example) for example in examples]
    recipe = BlockRecipe(BLOCK, 16, 4.0)
    for number in range(STEPS):
        rngs = [np.random.default_rng((number, row)) for row in range(4)]
        batch = step_batch(cleans, make_blocks(examples, rngs, recipe), LENGTH)
        sums, gradients = step.gradients(batch)
        rate = 6e-3 * min(1.0, (number + 1) / 10, (STEPS - number) / 40)
        step.apply(gradients, sums["weight"], [rate])
    texts, _, stats = generate((world.target, world.drafter), work, block=BLOCK, batch=4)
    assert texts == plain
    produced = sum(len(text) - 1 for text in texts.values())
    assert produced / stats.rounds >= 0.9 * BLOCK
