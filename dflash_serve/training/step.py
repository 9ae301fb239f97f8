"""One optimiser step on a drafter: gradients of a batch of blocks, and their application.

Owner of the float32 masters and the optimiser's state. Knows nothing of data or schedules.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import optimizers
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.training.attention import (
    SCORE_BYTES,
    block_rows,
    block_tokens,
    context_keys_values,
)
from dflash_serve.training.loss import Objective, SlotRows, Sums, Weights, chunked_objective

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StepBatch:
    """S sequences of T tokens with N blocks of B slots each.

    taps: [S, T, K * H] target features. final: [S, T, H], the target's rows after its final norm,
    needed for soft labels only. anchors [S, N], labels [S, N, B], visible [S, N]: int32;
    weights [S, N, B]: float32.
    """

    taps: mx.array
    final: mx.array | None
    anchors: mx.array
    labels: mx.array
    weights: mx.array
    visible: mx.array

    @property
    def arrays(self) -> list[mx.array]:
        return [value for value in astuple(self) if value is not None]


class TrainStep:
    """Compiled gradients and updates of one drafter's weights.

    ``masters`` are the weights in float32; the drafter's model holds copies in ``compute_dtype``,
    which are what the forward pass computes with. Target, embedding and head are frozen.
    """

    def __init__(
        self,
        drafter: DFlashDrafter,
        objective: Objective,
        optimizer: optimizers.Optimizer,
        *,
        clip: float = 1.0,
        compute_dtype: mx.Dtype = mx.float32,
        score_bytes: int = SCORE_BYTES,
    ) -> None:
        self.drafter = drafter
        self.objective = objective
        self.optimizer = optimizer
        self.masters: Tree = tree_map(
            lambda value: value.astype(mx.float32), drafter.model.parameters()
        )
        optimizer.init(self.masters)
        self._dtype = compute_dtype
        self._score_bytes = score_bytes
        self._gradients = mx.compile(self._trace_gradients)
        self._apply = _compiled_update(optimizer, clip)
        self._publish()

    def gradients(self, batch: StepBatch) -> tuple[Sums, Tree]:
        """Sums over the batch (see `chunked_objective`) and the gradient of sums["loss"].

        Neither is divided by the weight: add them up over micro-batches and processes first.
        """
        sums, gradients = self._gradients(self.masters, batch.arrays, batch.final is not None)
        return sums, gradients

    def apply(self, gradients: Tree, weight: mx.array, rates: Sequence[float]) -> mx.array:
        """Update with ``gradients / weight``, clipped; returns their norm before clipping.

        ``rates`` are the learning rates of the optimiser's parts, in order.
        """
        for part, rate in zip(_parts(self.optimizer), rates, strict=True):
            part.learning_rate = rate
        self.masters, norm = self._apply(self.masters, gradients, weight)
        mx.eval(self.masters, self.optimizer.state, norm)
        self._publish()
        return norm

    def load_masters(self, masters: Tree) -> None:
        """Go on from other weights."""
        self.masters = masters
        self._publish()

    def _publish(self) -> None:
        self.drafter.model.update(self._cast(self.masters))

    def _cast(self, masters: Tree) -> Tree:
        cast: Tree = tree_map(lambda value: value.astype(self._dtype), masters)
        return cast

    def _trace_gradients(
        self, masters: Tree, arrays: list[mx.array], soft: bool
    ) -> tuple[Sums, Tree]:
        taps, rest = arrays[0], arrays[1:]
        batch = StepBatch(taps, rest[0] if soft else None, *rest[-4:])
        model, own = self.drafter.model, self.drafter.model.parameters()

        def surrogate(masters: Tree) -> tuple[mx.array, Sums]:
            """A number whose gradient is the objective's: rows . (gradient to the rows)."""
            weights = self._cast(masters)
            model.update(weights)
            rows = self._rows(batch)
            selector = _selector(weights)
            sums, to_rows, to_selector = chunked_objective(
                self.drafter,
                self.objective,
                _slots(batch, mx.stop_gradient(rows)),
                None if selector is None else tree_map(mx.stop_gradient, selector),
            )
            total: mx.array = (rows[:, 1:] * mx.stop_gradient(to_rows)).sum()
            for name, value in (to_selector or {}).items():
                assert selector is not None
                total = total + (selector[name] * mx.stop_gradient(value)).sum()
            return total, sums

        (_, sums), gradients = mx.value_and_grad(surrogate)(masters)
        model.update(own)
        return sums, gradients

    def _rows(self, batch: StepBatch) -> mx.array:
        """[S * N, B, H] after the final norm."""
        context = context_keys_values(self.drafter, batch.taps)
        tokens = block_tokens(self.drafter.config.mask_token_id, batch.labels, batch.visible)
        rows = block_rows(self.drafter, context, batch.anchors, tokens, self._score_bytes)
        return rows.reshape(-1, *rows.shape[2:])


def _slots(batch: StepBatch, rows: mx.array) -> SlotRows:
    """The step's predicted slots, one entry per block, with the target's rows for soft labels."""
    block = batch.labels.shape[-1]
    final = None
    if batch.final is not None:
        # the target's row at position p predicts the token at p + 1: slot k is behind a + k - 1
        at = batch.anchors[..., None] + mx.arange(block - 1, dtype=mx.int32)
        at = mx.minimum(at, batch.final.shape[1] - 1).reshape(at.shape[0], -1, 1)
        final = mx.take_along_axis(batch.final, at, axis=1)
        final = final.reshape(-1, block - 1, final.shape[-1])
    return SlotRows(
        rows[:, 1:],
        batch.labels.reshape(-1, block),
        batch.weights.reshape(-1, block),
        batch.visible.reshape(-1),
        final,
    )


def _selector(weights: Tree) -> Weights | None:
    """A DFlash 2 drafter's selector weights by short name; None in DFlash v1."""
    part = weights.get("candidate_selector")
    if part is None:
        return None
    return {
        "predecessor_codebook": part["predecessor_codebook"],
        "successor_codebook": part["successor_codebook"],
        "hidden_projection": part["hidden_projection"]["weight"],
    }


def _parts(optimizer: optimizers.Optimizer) -> list[optimizers.Optimizer]:
    return getattr(optimizer, "optimizers", [optimizer])


def _compiled_update(optimizer: optimizers.Optimizer, clip: float) -> Callable[..., Any]:
    """(masters, gradients, weight) -> new masters and the gradient's norm."""
    state = [optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def update(masters: Tree, gradients: Tree, weight: mx.array) -> tuple[Tree, mx.array]:
        scale = 1.0 / mx.maximum(weight, 1e-9)
        flat = [(name, value * scale) for name, value in tree_flatten(gradients)]
        norm = mx.sqrt(sum((mx.square(value).sum() for _, value in flat), mx.array(0.0)))
        factor = mx.minimum(1.0, clip / (norm + 1e-6))
        clipped = tree_unflatten([(name, value * factor) for name, value in flat])
        updated = optimizer.apply_gradients(clipped, masters)
        # MLX merges its parts through sets: without an order of our own, sums over all weights
        # would differ in their last bits from one process to the next.
        ordered: Tree = tree_map(lambda _, value: value, masters, updated)
        return ordered, norm

    return update
