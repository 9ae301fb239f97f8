"""The training run: draws blocks, steps the optimiser, measures tokens per round.

AdamW without decay, clipping, a compiled step with constant shapes. Reports to a listener and
writes nothing itself.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from mlx import optimizers
from mlx.nn.utils import value_and_grad

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.training.attention import block_hidden, block_logits, context_keys_values
from dflash_serve.training.batches import Batch, batches
from dflash_serve.training.blocks import Example, make_blocks
from dflash_serve.training.features import FeatureStore
from dflash_serve.training.loss import block_loss, slot_counts
from dflash_serve.training.schedule import Horizon, learning_rate

_FACTORS = (1.0, 0.1)
"""Of the rate, for the first optimiser and for the vectors that Muon leaves to AdamW."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """One run. ``anchors`` blocks per sequence and step; lengths are padded to ``bucket``.

    ``muon`` orthogonalises the updates of matrices and leaves only vectors to AdamW: more progress
    per step, at rates near 0.01; AdamW alone is the published recipe.
    """

    horizon: Horizon
    batch: int = 8
    anchors: int = 16
    gamma: float = 7.0
    peak_rate: float = 6e-4
    warmup: float = 0.04
    clip: float = 1.0
    bucket: int = 64
    measure_every: int = 250
    seed: int = 0
    muon: bool = False


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step. ``accuracy`` [B - 1] is by slot; ``expected`` the tokens per round it suggests."""

    step: int
    progress: float
    seconds: float
    loss: float
    rate: float
    accuracy: tuple[float, ...]
    expected: float


class Listener(Protocol):
    """Sees the run as it goes."""

    def on_step(self, report: StepReport) -> None: ...

    def on_measure(self, step: int, tokens_per_round: float, best: bool) -> None: ...


@dataclass
class Trainer:
    """Owns the drafter's weights, the optimiser and the cursor over the data."""

    drafter: DFlashDrafter
    examples: list[Example]
    features: FeatureStore
    options: TrainOptions
    _step: Callable[..., Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.optimizer = _optimizer(self.options.muon)
        self.optimizer.init(self.drafter.model.trainable_parameters())
        self._step = _compiled_step(self.drafter, self.optimizer, self.options.clip)

    def run(self, measure: Callable[[], float], listener: Listener) -> float:
        """Train to the horizon; returns the best of what ``measure`` said along the way.

        ``measure`` returns tokens per round of the drafter as it stands.
        """
        options, best, started = self.options, 0.0, time.monotonic()
        lengths = [example.length for example in self.examples]
        stream = batches(lengths, options.batch, options.bucket, options.seed)
        step, progress = 0, 0.0
        while progress < 1.0:
            report = self.step(next(stream), step, progress, started)
            listener.on_step(report)
            step += 1
            progress = options.horizon.progress(step, time.monotonic() - started)
            if step % options.measure_every == 0 or progress >= 1.0:
                measured = measure()
                listener.on_measure(step, measured, measured > best)
                best = max(measured, best)
        return best

    def step(self, batch: Batch, step: int, progress: float, started: float) -> StepReport:
        """One optimiser step on ``batch``."""
        options = self.options
        rate = learning_rate(options.peak_rate, options.warmup, progress)
        for part, factor in zip(self.optimizer.optimizers, _FACTORS, strict=False):
            part.learning_rate = rate * factor
        loss, right, seen, accepted, blocks = self._step(
            self.features.batch(batch.indices, batch.length).taps, *self._blocks(batch)
        )
        mx.eval(self.drafter.model.state, self.optimizer.state, loss, right, seen, accepted, blocks)
        if not np.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        return StepReport(
            step,
            progress,
            time.monotonic() - started,
            loss.item(),
            rate,
            tuple((right / mx.maximum(seen, 1.0)).tolist()),
            1.0 + accepted.item() / max(1.0, blocks.item()),
        )

    def _blocks(self, batch: Batch) -> tuple[mx.array, mx.array, mx.array]:
        options = self.options
        blocks = make_blocks(
            [self.examples[index] for index in batch.indices],
            [
                np.random.default_rng((options.seed, epoch, index))
                for epoch, index in zip(batch.epochs, batch.indices, strict=True)
            ],
            count=options.anchors,
            block_size=self.drafter.block_size,
            gamma=options.gamma,
        )
        return mx.array(blocks.anchors), mx.array(blocks.labels), mx.array(blocks.weights)


def forward_logits(
    drafter: DFlashDrafter, taps: mx.array, anchors: mx.array, labels: mx.array
) -> mx.array:
    """[S, T, K * H] features and blocks -> logits [S, N, B - 1, V]."""
    context = context_keys_values(drafter, taps)
    hidden = block_hidden(drafter, context, anchors, labels[:, :, 0], labels.shape[2])
    return block_logits(drafter, hidden)


def _optimizer(muon: bool) -> optimizers.MultiOptimizer:
    """AdamW without decay for everything, or for what Muon leaves; in the order of `_FACTORS`."""
    adamw = optimizers.AdamW(learning_rate=0.0, weight_decay=0.0, bias_correction=True)
    if not muon:
        return optimizers.MultiOptimizer([adamw])
    matrices = optimizers.Muon(learning_rate=0.0, weight_decay=0.0)
    return optimizers.MultiOptimizer([matrices, adamw], [lambda _, value: value.ndim == 2])


def _compiled_step(
    drafter: DFlashDrafter, optimizer: optimizers.Optimizer, clip: float
) -> Callable[..., Any]:
    """(taps, anchors, labels, weights) -> loss and slot counts; updates the weights in place."""
    model = drafter.model

    def objective(
        taps: mx.array, anchors: mx.array, labels: mx.array, weights: mx.array
    ) -> tuple[mx.array, ...]:
        logits = forward_logits(drafter, taps, anchors, labels)
        counts = slot_counts(mx.stop_gradient(logits), labels, weights)
        loss = block_loss(logits, labels, weights)
        return loss, counts.right, counts.seen, counts.accepted, counts.blocks

    gradient = value_and_grad(model, objective)
    clip_norm: Callable[..., Any] = optimizers.clip_grad_norm
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(
        taps: mx.array, anchors: mx.array, labels: mx.array, weights: mx.array
    ) -> tuple[mx.array, ...]:
        values: tuple[mx.array, ...]
        values, gradients = gradient(taps, anchors, labels, weights)
        gradients, _ = clip_norm(gradients, clip)
        optimizer.update(model, gradients)
        return values

    return step
