"""Second opinions on the dense reference: another one in NumPy, and differences for gradients."""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest

from tests.adapters.reference import LayerKind, Reference
from tests.training.dense_reference import F64, Drawn, Goal
from tests.training.worlds import WINDOW, drafter_config, make_world, sequences

KINDS = {
    "v1": (LayerKind(), LayerKind()),
    "sliding": (LayerKind(WINDOW, True), LayerKind(WINDOW, True)),
    "sliding, not causal": (LayerKind(WINDOW), LayerKind(WINDOW)),
    "mixed": (LayerKind(WINDOW, True), LayerKind()),
}


@pytest.fixture(autouse=True)
def _on_the_cpu() -> Iterator[None]:
    with mx.stream(mx.cpu):
        yield


@pytest.mark.parametrize("name", KINDS)
def test_logits_equal_the_numpy_reference_of_inference(name: str) -> None:
    world = make_world(name)
    clean, dense = world.clean(sequences()[0]), world.dense
    weights = {key: np.array(value) for key, value in world.weights.items()}
    config = drafter_config(name) | {"rms_norm_eps": dense.config.rms_norm_eps}
    table = np.array(dense.embedding, dtype=np.float64)
    other = Reference(weights, config, table, KINDS[name])
    for anchor in (3, 8, 20):
        taps = clean.taps[:anchor]
        hidden = dense.block(world.weights, taps, dense.rows(clean, Drawn(anchor)))
        wanted = other.logits(
            np.array(taps, dtype=np.float64), clean.tokens[anchor], dense.config.block_size
        )
        # the other one's head is its embedding
        np.testing.assert_allclose(np.array(hidden[1:]) @ table.T, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["v1", "dflash2 sliding"])
def test_gradients_equal_differences_of_the_loss(name: str) -> None:
    world = make_world(name)
    data = [(world.clean(sequences()[0]), [Drawn(5), Drawn(12, visible=3), Drawn(27)])]
    goal = Goal(soft=0.4, selector=0.7 * ("dflash2" in name))
    weights = world.weights
    gradients = mx.grad(lambda w: world.dense.loss(w, data, goal))(weights)
    rng = np.random.default_rng(0)
    for key, value in weights.items():
        way = mx.array(rng.normal(size=value.shape), F64)
        up, down = (
            world.dense.loss({**weights, key: value + step * way}, data, goal)
            for step in (1e-5, -1e-5)
        )
        slope = ((up - down) / 2e-5).item()
        assert (gradients[key] * way).sum().item() == pytest.approx(slope, rel=1e-6, abs=1e-9), key
