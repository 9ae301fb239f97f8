"""Steps of a training run: batches to gradients to new weights, and its state as arrays.

Writes nothing and decides nothing about when a run measures, saves or ends: that is `loop`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import optimizers
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.kernels.updates import AdamW
from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.example import Example
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.checkpoint import CheckpointError
from dflash_serve.training.run.distributed import Processes
from dflash_serve.training.run.guard import Diverged
from dflash_serve.training.run.schedule import Horizon, Schedule
from dflash_serve.training.step.batches import Batch, batches, steps_per_epoch
from dflash_serve.training.step.blocks import BlockRecipe, default_gamma, make_blocks
from dflash_serve.training.step.objective import Objective
from dflash_serve.training.step.train_step import GROUP_ROWS, StepBatch, TrainStep

COMPUTE_DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}

_FACTORS = (1.0, 0.1)
"""Of the rate, for the first optimiser and for the vectors that Muon leaves to AdamW."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """One run; what the options of a command mean is said by `RunSettings`.

    ``gamma`` None follows the block. Lengths are padded to ``bucket``.
    """

    horizon: Horizon
    schedule: Schedule = field(default_factory=lambda: Schedule(6e-4))
    objective: Objective = field(default_factory=Objective)
    batch: int = 8
    accumulate: int = 1
    anchors: int = 16
    gamma: float | None = None
    prefix_weight_base: float | None = None
    clip: float = 1.0
    weight_decay: float = 0.0
    bucket: int = 64
    measure_every: int = 250
    checkpoint_every: int = 500
    patience: int | None = None
    seed: int = 0
    muon: bool = False
    compute_dtype: str = "float32"
    group_rows: int = GROUP_ROWS


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step. ``accuracy`` [B - 1] is by slot; ``expected`` the tokens per round it suggests.

    ``norm`` is the gradient's before clipping, ``tokens`` the clean ones in the batch, ``memory``
    the most bytes held so far.
    """

    step: int
    progress: float
    seconds: float
    loss: float
    rate: float
    accuracy: tuple[float, ...]
    expected: float
    norm: float
    tokens: int
    memory: int


class Trainer:
    """Owns the drafter's weights, the optimiser's state and the cursor over the data."""

    def __init__(
        self,
        drafter: DFlashDrafter,
        examples: Sequence[Example],
        features: FeatureStore,
        options: TrainOptions,
        processes: Processes | None = None,
    ) -> None:
        self.drafter, self.options = drafter, options
        self.processes = processes or Processes()
        self.horizon = options.horizon.in_steps(steps_per_epoch(len(examples), options.batch))
        self.examples, self._features = examples, features
        self._part = _part_size(options, self.processes)
        gamma = options.gamma or default_gamma(drafter.block_size)
        self._recipe = BlockRecipe(
            drafter.block_size, options.anchors, gamma, options.prefix_weight_base
        )
        self._step = TrainStep(
            drafter,
            options.objective,
            _optimizer(options),
            clip=options.clip,
            compute_dtype=COMPUTE_DTYPES[options.compute_dtype],
            group_rows=options.group_rows,
        )
        self._seek(0)
        self._set_arrays(self.processes.shared(self._arrays()))

    def step(self, step: int, progress: float, seconds: float) -> StepReport:
        """One optimiser step on the next batch, as step number ``step``.

        Raises:
            Diverged: the loss or its gradient is not finite; the weights are spoilt.
        """
        batch, rate = next(self._batches), self.options.schedule.rate(progress)
        sums, gradients = self._gradients(batch)
        factors = _FACTORS if self.options.muon else _FACTORS[:1]
        norm = self._step.apply(gradients, sums["weight"], [rate * factor for factor in factors])
        told = {name: np.array(value) for name, value in (sums | {"norm": norm}).items()}
        loss = float(told["loss"]) / max(float(told["weight"]), 1e-9)
        for name, value in (("loss", loss), ("gradient's norm", float(told["norm"]))):
            if not np.isfinite(value):
                raise Diverged(f"the {name} is {value} at step {step}")
        return StepReport(
            step=step,
            progress=progress,
            seconds=seconds,
            loss=loss,
            rate=rate,
            accuracy=tuple((told["right"] / np.maximum(told["seen"], 1.0)).tolist()),
            expected=1.0 + float(told["accepted"]) / max(1.0, float(told["blocks"])),
            norm=float(told["norm"]),
            tokens=sum(self.examples[index].length for index in batch.indices),
            memory=mx.get_peak_memory(),
        )

    def state(self) -> dict[str, mx.array]:
        """What steps change, by name: masters, the optimiser's state, the random state."""
        return dict(tree_flatten(self._arrays()))

    def masters(self) -> dict[str, mx.array]:
        """The drafter's weights in float32, by name."""
        return dict(tree_flatten(self._step.masters))

    def restore(self, arrays: dict[str, mx.array] | None, step: int) -> None:
        """Go on behind ``step`` steps. Only the first process needs ``arrays``."""
        own = self.state()
        if arrays is not None:
            _check_alike(own, arrays)
            # In the order of a fresh run: sums over all weights must add up in the same order.
            own = {name: arrays[name] for name in own}
        given = tree_unflatten(list(own.items()))
        self._set_arrays(self.processes.shared(given))
        self._seek(step)

    def _seek(self, step: int) -> None:
        lengths, options = [example.length for example in self.examples], self.options
        self._batches = batches(lengths, options.batch, options.bucket, options.seed, skip=step)

    def _arrays(self) -> dict[str, Any]:
        random: Any = mx.random.state
        return {
            "masters": self._step.masters,
            "optimizer": self._step.optimizer.state,
            "random": random[0],
        }

    def _set_arrays(self, arrays: dict[str, Any]) -> None:
        _fill(self._step.optimizer.state, arrays["optimizer"])
        high, low = np.array(arrays["random"]).tolist()
        mx.random.seed((high << 32) | low)  # which makes the two halves the state again
        self._step.load_masters(arrays["masters"])

    def _gradients(self, batch: Batch) -> tuple[dict[str, mx.array], Any]:
        """Sums and gradients over the whole batch, the same on all processes."""
        first = self.processes.rank * self.options.accumulate
        total: Any = None
        for part in range(first, first + self.options.accumulate):
            found = list(self._step.gradients(self._step_batch(batch, part * self._part)))
            total = found if total is None else tree_map(mx.add, total, found)
            mx.eval(total)
        # Sums over all processes come laid out in rows, and a sum's last bits depend on the layout.
        sums, gradients = self.processes.sum(tree_map(mx.contiguous, total))
        return sums, gradients

    def _step_batch(self, batch: Batch, first: int) -> StepBatch:
        """A part of the batch. Where it has too few examples, one without weight fills it up."""
        given = batch.indices[first : first + self._part]
        indices = given + batch.indices[:1] * (self._part - len(given))
        features = self._features.batch(indices, batch.length)
        blocks = make_blocks(
            [self.examples[index] for index in indices],
            [np.random.default_rng((self.options.seed, batch.epoch, index)) for index in indices],
            self._recipe,
        )
        blocks.weights[len(given) :] = 0.0
        return StepBatch(
            features.taps,
            features.final,
            mx.array(blocks.anchors),
            mx.array(blocks.labels),
            mx.array(blocks.weights),
            mx.array(blocks.visible),
        )


def _part_size(options: TrainOptions, processes: Processes) -> int:
    """Sequences that are computed at once."""
    parts = options.accumulate * processes.size
    if options.batch % parts:
        raise DataError(
            f"a batch of {options.batch} cannot be shared by {processes.size} process(es) in "
            f"{options.accumulate} part(s) each"
        )
    return options.batch // parts


def _optimizer(options: TrainOptions) -> optimizers.MultiOptimizer:
    """AdamW for everything, or for what Muon leaves; in the order of `_FACTORS`."""
    decay = options.weight_decay
    adamw = AdamW(learning_rate=0.0, weight_decay=decay)
    if not options.muon:
        return optimizers.MultiOptimizer([adamw])
    matrices = optimizers.Muon(learning_rate=0.0, weight_decay=decay)
    return optimizers.MultiOptimizer([matrices, adamw], [lambda _, value: value.ndim == 2])


def _fill(tree: Any, values: Any) -> None:
    """Put ``values`` into the containers of ``tree``: a compiled step keeps hold of those."""
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        if isinstance(tree[key], mx.array):
            tree[key] = values[key]
        else:
            _fill(tree[key], values[key])


def _check_alike(own: dict[str, mx.array], given: dict[str, mx.array]) -> None:
    def kinds(arrays: dict[str, mx.array]) -> set[tuple[str, tuple[int, ...], mx.Dtype]]:
        return {(name, value.shape, value.dtype) for name, value in arrays.items()}

    for name, shape, dtype in kinds(own) ^ kinds(given):
        raise CheckpointError(f"the checkpoint is of another drafter: {name} {shape} {dtype}")
