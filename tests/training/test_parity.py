"""A training step equals the dense reference: its loss, and the gradient of every tensor."""

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx import optimizers
from mlx.utils import tree_flatten

from dflash_serve.training.data.example import Example
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.step.blocks import BlockRecipe, blocks_at
from dflash_serve.training.step.objective import (
    DFLASH,
    DPACE,
    DPACE_CONTINUATION,
    DPACE_CUMULATIVE,
    LossType,
    Objective,
)
from dflash_serve.training.step.train_step import GROUP_ROWS, StepBatch, TrainStep, Tree
from tests.training.dense_reference import (
    F64,
    Clean,
    Drawn,
    Goal,
    Weights,
    continuations,
    prefixes,
)
from tests.training.worlds import (
    BLOCK,
    DRAWN,
    World,
    make_world,
    sequences,
    step_batch,
)

GAMMA = 3.0
VISIBLE = [[Drawn(b.anchor, b.keep, 2 + i % (BLOCK - 2)) for i, b in enumerate(r)] for r in DRAWN]
Blocks = Sequence[Sequence[Drawn]]


pytestmark = pytest.mark.usefixtures("op_by_op")


def batch_of(examples: Sequence[Example], cleans: Sequence[Clean], drawn: Blocks) -> StepBatch:
    """What the trainer makes of these blocks, padded to 32 tokens."""

    def column(name: str) -> np.ndarray:
        return np.array([[getattr(block, name) for block in row] for row in drawn])

    blocks = blocks_at(
        examples,
        column("anchor").astype(np.int32),
        column("keep"),
        column("visible").astype(np.int32),
        BlockRecipe(BLOCK, len(drawn[0]), GAMMA),
    )
    return step_batch(cleans, blocks, 32)


def train_step(world: World, objective: Objective, **options: object) -> TrainStep:
    adamw = optimizers.AdamW(learning_rate=0.0, weight_decay=0.0, bias_correction=True)
    return TrainStep(world.drafter, objective, adamw, **options)  # type: ignore[arg-type]


def flat(tree: Tree) -> dict[str, mx.array]:
    return dict(tree_flatten(tree))


def distance(found: mx.array, wanted: mx.array) -> float:
    """|found - wanted| / |wanted|, Euclidean norms over a whole tensor."""
    off = np.array(found.astype(F64) - wanted)
    return float(np.linalg.norm(off) / np.linalg.norm(np.array(wanted)))


def check(world: World, drawn: Blocks, objective: Objective, goal: Goal, **options: object) -> None:
    """Loss and every gradient within 1e-5 of the reference's, which is exact to 1e-12."""
    examples = sequences()
    cleans = [world.clean(example) for example in examples]
    step = train_step(world, objective, **options)
    sums, gradients = step.gradients(batch_of(examples, cleans, drawn))
    data = list(zip(cleans, drawn, strict=True))

    def loss_and_weight(weights: Weights) -> tuple[mx.array, mx.array]:
        above, below = world.dense.sums(weights, data, goal)
        return above / below, below

    (wanted, weight), wanted_gradients = mx.value_and_grad(loss_and_weight)(world.weights)
    assert distance(sums["weight"], weight) < 1e-6
    assert distance(sums["loss"] / sums["weight"], wanted) < 1e-5
    found = flat(gradients)
    assert found.keys() == wanted_gradients.keys()
    for name, value in found.items():
        assert value.dtype == mx.float32
        assert distance(value / sums["weight"], wanted_gradients[name]) < 1e-5, name


PLAIN = Objective(selector_alpha=0.0)
DENSE = Goal(GAMMA)


@pytest.mark.parametrize("name", ["v1", "sliding", "sliding, not causal", "mixed", "scaled"])
@pytest.mark.parametrize("drawn", [DRAWN, VISIBLE], ids=["one visible", "visible prefixes"])
def test_a_step_equals_the_dense_reference(name: str, drawn: Blocks) -> None:
    check(make_world(name), drawn, PLAIN, DENSE)


@pytest.mark.parametrize("name", ["dflash2", "dflash2 sliding"])
@pytest.mark.parametrize("drawn", [DRAWN, VISIBLE], ids=["one visible", "visible prefixes"])
def test_convolutions_and_selector_equal_the_dense_reference(name: str, drawn: Blocks) -> None:
    check(make_world(name), drawn, Objective(selector_alpha=0.7), replace(DENSE, selector=0.7))


@pytest.mark.parametrize("name", ["v1", "scaled", "dflash2"])
@pytest.mark.parametrize(
    ("objective", "goal"),
    [
        (Objective(soft_label=1.0), replace(DENSE, soft=1.0)),
        (Objective(loss_type=DPACE), replace(DENSE, pace=0.5)),
        (Objective(0.3, DPACE, 0.2), replace(DENSE, pace=0.2, soft=0.3)),
        (Objective(loss_type=DPACE_CUMULATIVE), replace(DENSE, pace=0.5, paced=prefixes)),
        (Objective(loss_type=DPACE_CONTINUATION), replace(DENSE, pace=0.5, paced=continuations)),
    ],
    ids=["soft", "d-pace", "d-pace soft", "d-pace prefix", "d-pace continuation"],
)
def test_options_of_the_loss_equal_the_dense_reference(
    name: str, objective: Objective, goal: Goal
) -> None:
    goal = replace(goal, selector=float("dflash2" in name))
    check(make_world(name), [DRAWN[0], *VISIBLE[1:]], objective, goal)


@pytest.mark.parametrize("group_rows", [1, 40, 1 << 20])
def test_the_size_of_groups_changes_nothing(group_rows: int) -> None:
    goal = replace(DENSE, soft=0.4, selector=1.0)
    world, objective = make_world("dflash2 sliding"), Objective(soft_label=0.4)
    check(world, DRAWN, objective, goal, group_rows=group_rows)


def test_a_run_computes_as_many_rows_together_as_a_step_does() -> None:
    assert RunSettings.model_fields["group_rows"].default == GROUP_ROWS


def test_the_compiled_step_equals_the_dense_reference() -> None:
    mx.enable_compile()
    objective = Objective(0.4, DPACE)
    goal = replace(DENSE, soft=0.4, pace=0.5, selector=1.0)
    check(make_world("dflash2 sliding"), VISIBLE, objective, goal, group_rows=40)


@pytest.mark.parametrize("loss_type", [DFLASH, DPACE])
def test_micro_batches_add_up_to_one_batch(loss_type: LossType) -> None:
    world, examples = make_world("dflash2"), sequences()
    cleans = [world.clean(example) for example in examples]
    step = train_step(world, Objective(loss_type=loss_type))
    sums, gradients = step.gradients(batch_of(examples, cleans, DRAWN))
    parts = [
        step.gradients(batch_of([example], [clean], [drawn]))
        for example, clean, drawn in zip(examples, cleans, DRAWN, strict=True)
    ]
    for name, value in sums.items():
        added = sum(part[name] for part, _ in parts)
        np.testing.assert_allclose(np.array(added), np.array(value), rtol=1e-6, err_msg=name)
    trees = [flat(tree) for _, tree in parts]
    for name, value in flat(gradients).items():
        assert distance(sum(tree[name] for tree in trees), value.astype(F64)) < 1e-5, name


def test_bfloat16_computes_alike_and_learns_in_float32() -> None:
    world, examples = make_world(), sequences()
    batch = batch_of(examples, [world.clean(example) for example in examples], DRAWN)
    exact, gradients = train_step(world, PLAIN).gradients(batch)
    step = train_step(world, PLAIN, compute_dtype=mx.bfloat16)
    assert world.drafter.model.norm.weight.dtype == mx.bfloat16
    sums, rough = step.gradients(batch)
    assert distance(sums["loss"], exact["loss"].astype(F64)) < 0.01
    for name, value in flat(gradients).items():
        assert distance(flat(rough)[name], value.astype(F64)) < 0.05, name
    before = flat(step.masters)
    for _ in range(3):  # each update is far below a bfloat16 weight's last bit
        step.apply(rough, sums["weight"], [1e-5])
    for name, value in flat(step.masters).items():
        assert value.dtype == mx.float32
        moved = mx.abs(value - before[name])
        assert 2e-5 < moved.max().item() < 4e-5, name
