"""Loading on a GPU, where tensors stay as stored: what can be tested of it without one."""

from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from dflash_serve.adapters.weights import open_weights, take
from dflash_serve.compose.directories import DEMO


def test_without_a_dtype_everything_stays_as_stored() -> None:
    directory: Path = DEMO / "target"
    model, _ = load_model(directory, lazy=True)
    stored = {name: value.dtype for name, value in tree_flatten(model.parameters())}
    taken = take(model, open_weights(directory), None)
    assert {name: value.dtype for name, value in tree_flatten(model.parameters())} == stored
    assert mx.bfloat16 in stored.values() or mx.float16 in stored.values()
    assert taken.held == taken.sizes.stored
    assert (taken.sizes.half, taken.sizes.quantised, taken.left) == (0, 0, 0)
