"""Training steps on random weights and features of given shapes: to measure memory and time.

Of the target only what a step reads ever exists, its embedding and its head. Downloads nothing.
"""

import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import make_model, on_cpu
from dflash_serve.training.data.example import Example
from dflash_serve.training.drafter.initialise import new_drafter
from dflash_serve.training.features.files import FeatureFiles, Features
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.trainer import Trainer, TrainOptions

_TABLES = ("embed_tokens.weight", "lm_head.weight")
_ROWS = 256  # of a table that differ
_MANY = 1 << 40  # bytes: the directory's room for features


class Trial:
    """A trainer of a new drafter on ``options.batch`` random sequences whose features are on disk.

    ``directory`` takes the features: 2 bytes for each token, tapped layer and hidden unit.
    """

    def __init__(
        self,
        target: dict[str, Any],
        drafter: dict[str, Any],
        options: TrainOptions,
        length: int,
        directory: Path,
    ) -> None:
        made = _target(target)
        self.drafter = new_drafter(drafter, made, seed=1)
        examples = [
            _example(np.random.default_rng(row), made.vocab_size, length)
            for row in range(options.batch)
        ]
        self._features = _features(made, self.drafter, examples, directory)
        self._trainer = Trainer(self.drafter, examples, self._features, options)
        mx.eval(self._trainer.state())

    @property
    def parameters(self) -> int:
        """Weights that are trained."""
        return sum(value.size for _, value in tree_flatten(self.drafter.model.parameters()))

    def state(self) -> dict[str, mx.array]:
        """What steps change, by name."""
        return self._trainer.state()

    def step(self, number: int) -> float:
        """One step; its seconds."""
        started = time.perf_counter()
        self._trainer.step(number, 0.5, 0.0)
        return time.perf_counter() - started

    def close(self) -> None:
        self._features.close()


def _target(config: dict[str, Any]) -> TargetAdapter:
    """Of which embedding and head are computed, and nothing else."""
    mx.random.seed(0)
    adapter, model = make_model(config)
    tables = [
        (name, _table(value.shape))
        for name, value in tree_flatten(model.parameters())
        if name.endswith(_TABLES)
    ]
    model.update(tree_unflatten(tables))
    if not on_cpu():
        model.set_dtype(mx.bfloat16)
    target: TargetAdapter = adapter(model)
    mx.eval(target.logits(target.embed(mx.array([[0]]))))
    return target


def _table(shape: tuple[int, int]) -> mx.array:
    """Some random rows again and again: new ones take a minute for a large vocabulary."""
    rows = 0.02 * mx.random.normal((_ROWS, shape[1]))
    times = -(-shape[0] // _ROWS)
    return mx.contiguous(mx.tile(rows, (times, 1))[: shape[0]])


def _example(rng: np.random.Generator, vocab: int, length: int) -> Example:
    """All of it is answer."""
    tokens = rng.integers(0, vocab, length).astype(np.int32)
    return Example(tokens, np.ones(length, dtype=np.bool_))


def _features(
    target: TargetAdapter, drafter: DFlashDrafter, examples: list[Example], directory: Path
) -> FeatureStore:
    layers, width = drafter.config.target_layer_ids, drafter.config.hidden_size
    files = FeatureFiles.open(directory, {"target": "random"}, _MANY)
    for index, example in enumerate(examples):
        shape = (example.length, len(layers) * width)
        files.put(index, Features(mx.random.normal(shape, dtype=mx.float16), None))
    return FeatureStore(target, layers, examples, 0, files=files)
