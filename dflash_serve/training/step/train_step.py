"""One optimiser step on a drafter: gradients of a batch of blocks, and their application.

Owner of the float32 masters and the optimiser's state. Knows nothing of data or schedules.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import optimizers
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.kernels.block_attention import KeysValues
from dflash_serve.kernels.updates import sum_of_squares
from dflash_serve.training.step.attention import (
    block_rows,
    block_tokens,
    mix,
    mixed_keys_values,
)
from dflash_serve.training.step.loss import SlotRows, Sums, block_objective
from dflash_serve.training.step.objective import Objective

Tree = dict[str, Any]

GROUP_ROWS = 512
GROUP_BYTES = 384 << 20
"""Block rows that go through the network and back together, and what their attention scores of
one layer and their logits may take in float32. At least one block of every sequence: memory grows
with these and with the sequences of a step, not with the blocks of each."""
PORTION_BYTES = 256 << 20
"""Float32 weights that are updated together, beside which their new values and those of the
optimiser's state exist for a moment. At least one tensor."""


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


class TrainStep:
    """Compiled gradients and updates of one drafter's weights.

    ``masters`` are the weights in float32; the drafter's model holds copies in ``compute_dtype``,
    which are what the forward pass computes with. Target, embedding and head are frozen.

    Given the context's keys and values, blocks are independent of each other. So they go through
    the network and back in groups, whose gradients to weights, keys and values are added up; what
    the keys and values gathered then flows back through the context once.
    """

    def __init__(
        self,
        drafter: DFlashDrafter,
        objective: Objective,
        optimizer: optimizers.Optimizer,
        *,
        clip: float = 1.0,
        compute_dtype: mx.Dtype = mx.float32,
        group_rows: int = GROUP_ROWS,
        portion_bytes: int = PORTION_BYTES,
    ) -> None:
        self.drafter = drafter
        self.objective = objective
        self.optimizer = optimizer
        self.masters: Tree = tree_map(
            lambda value: value.astype(mx.float32), drafter.model.parameters()
        )
        optimizer.init(self.masters)
        self._dtype = compute_dtype
        self._group_rows = group_rows
        self._context = mx.compile(self._trace_context)
        self._through_context = mx.compile(self._trace_through_context)
        self._through_group = mx.compile(self._trace_through_group)
        self._clipping = mx.compile(partial(_clipping, clip=clip))
        self._update = _compiled_update(optimizer)
        self._portions = _portions(self.masters, portion_bytes)
        self._publish(self.masters)

    def gradients(self, batch: StepBatch) -> tuple[Sums, Tree]:
        """Sums over the batch (see `block_objective`) and the gradient of sums["loss"].

        Neither is divided by the weight: add them up over micro-batches and processes first.
        """
        mixed, context = self._context(self.masters, batch.taps)
        found: Any = None
        for blocks in self._groups(batch):
            added = self._through_group(self.masters, context, blocks, batch.final)
            if found is None:
                found = added
            else:
                mx.eval(found)  # the last group's activations are gone before these come
                found = tree_map(mx.add, found, added)
            mx.async_eval(found)  # type: ignore[no-untyped-call]  # the next group's graph is made meanwhile
        sums, gradients, to_context = found
        rest = self._through_context(self.masters, batch.taps, mixed, to_context)
        return sums, _added(gradients, rest)

    def apply(self, gradients: Tree, weight: mx.array, rates: Sequence[float]) -> mx.array:
        """Update with ``gradients / weight``, clipped; returns their norm before clipping.

        ``rates`` are the learning rates of the optimiser's parts, in order.
        """
        parts = _parts(self.optimizer)
        for part, rate in zip(parts, rates, strict=True):
            part.learning_rate = rate
        factor, norm = self._clipping(gradients, weight)
        steps = [part.state["step"] for part in parts]
        given, masters = dict(tree_flatten(gradients)), dict(tree_flatten(self.masters))
        for names in self._portions:
            for part, step in zip(parts, steps, strict=True):
                part.state["step"] = step  # which every portion counts up
            old = tree_unflatten([(name, masters[name]) for name in names])
            new = self._update(old, tree_unflatten([(name, given[name]) for name in names]), factor)
            masters.update(tree_flatten(new))
            self.masters = tree_unflatten(list(masters.items()))
            self._publish(new)
            del old
            mx.eval(new, self.optimizer.state, norm)
        return norm

    def load_masters(self, masters: Tree) -> None:
        """Go on from other weights."""
        self.masters = masters
        self._publish(masters)

    def _publish(self, masters: Tree) -> None:
        """Give the model new weights, all of them or some."""
        self.drafter.model.update(self._cast(masters))

    def _cast(self, masters: Tree) -> Tree:
        cast: Tree = tree_map(lambda value: value.astype(self._dtype), masters)
        return cast

    def _groups(self, batch: StepBatch) -> Iterator[list[mx.array]]:
        """Anchors, labels, weights and visible slots of so many blocks as go together."""
        sequences, count, block = batch.labels.shape
        config = self.drafter.config
        keys = batch.taps.shape[1] + block
        row = 4 * (config.vocab_size + config.num_attention_heads * keys)
        rows = min(self._group_rows, GROUP_BYTES // row)
        groups = -(-count // max(1, rows // (sequences * block)))
        size = -(-count // groups)
        for first in range(0, count, size):
            cut = slice(first, first + size)
            blocks = (batch.anchors, batch.labels, batch.weights, batch.visible)
            yield [array[:, cut] for array in blocks]

    @contextmanager
    def _weights(self, masters: Tree) -> Iterator[None]:
        """The model with these weights while a function of them is traced."""
        model = self.drafter.model
        own = model.parameters()
        model.update(self._cast(masters))
        try:
            yield
        finally:
            model.update(own)

    def _trace_context(self, masters: Tree, taps: mx.array) -> tuple[mx.array, list[KeysValues]]:
        with self._weights(masters):
            mixed = mix(self.drafter, taps)
            return mixed, mixed_keys_values(self.drafter, mixed)

    def _trace_through_context(
        self, masters: Tree, taps: mx.array, mixed: mx.array, to_context: list[KeysValues]
    ) -> Tree:
        """Gradients of the weights that make the context's keys and values, by way of these.

        The mixed features are not computed again: the way back through a product needs no result.
        """
        used = [(name, value) for name, value in tree_flatten(masters) if _makes_context(name)]
        names, values = zip(*used, strict=True)

        def keys_values(mixed: mx.array, *values: mx.array) -> list[mx.array]:
            with self._weights(tree_unflatten(list(zip(names, values, strict=True)))):
                return _leaves(mixed_keys_values(self.drafter, mixed))

        def mixing(weight: mx.array) -> list[mx.array]:
            with self._weights({"fc": {"weight": weight}}):
                return [mix(self.drafter, taps)]

        _, (to_mixed, *found) = mx.vjp(keys_values, [mixed, *values], _leaves(to_context))
        gradients: Tree = tree_unflatten(list(zip(names, found, strict=True)))
        _, (to_weight,) = mx.vjp(mixing, [masters["fc"]["weight"]], [to_mixed])
        return gradients | {"fc": {"weight": to_weight}}

    def _trace_through_group(
        self,
        masters: Tree,
        context: list[KeysValues],
        blocks: list[mx.array],
        final: mx.array | None,
    ) -> tuple[Sums, Tree, list[KeysValues]]:
        """A group's sums, and the gradients of its loss to the weights and to the context."""
        anchors, labels, _, visible = blocks

        def loss(masters: Tree, context: list[KeysValues]) -> tuple[mx.array, Sums]:
            with self._weights(masters):
                tokens = block_tokens(self.drafter.config.mask_token_id, labels, visible)
                rows = block_rows(self.drafter, context, anchors, tokens)
                slots = _slots(rows, blocks, final)
                sums = block_objective(self.drafter, self.objective, slots)
            return sums["loss"], {name: value for name, value in sums.items() if name != "loss"}

        backward = mx.value_and_grad(loss, argnums=(0, 1))
        (total, sums), (to_weights, to_context) = backward(masters, context)
        return sums | {"loss": total}, to_weights, to_context


def _makes_context(name: str) -> bool:
    """Whether the context's keys and values are made by a weight from the mixed features."""
    return name.startswith("hidden_norm.") or ".self_attn.k_" in name or ".self_attn.v_" in name


def _added(tree: Tree, more: Tree) -> Tree:
    """``tree``, with ``more`` added to those of its leaves that this has too."""
    sums = dict(tree_flatten(tree))
    for name, value in tree_flatten(more):
        sums[name] = sums[name] + value
    added: Tree = tree_unflatten(list(sums.items()))
    return added


def _leaves(tree: Any) -> list[mx.array]:
    return [value for _, value in tree_flatten(tree)]


def _slots(rows: mx.array, blocks: list[mx.array], final: mx.array | None) -> SlotRows:
    """The predicted slots of rows [S, N, B, H], with the target's rows for soft labels."""
    anchors, labels, weights, visible = blocks
    *_, block, hidden = rows.shape
    if final is not None:
        # the target's row at position p predicts the token at p + 1: slot k is behind a + k - 1
        at = anchors[..., None] + mx.arange(block - 1, dtype=mx.int32)
        at = mx.minimum(at, final.shape[1] - 1).reshape(at.shape[0], -1, 1)
        final = mx.take_along_axis(final, at, axis=1).reshape(-1, block - 1, final.shape[-1])
    return SlotRows(
        rows.reshape(-1, block, hidden)[:, 1:],
        labels.reshape(-1, block),
        weights.reshape(-1, block),
        visible.reshape(-1),
        final,
    )


def _parts(optimizer: optimizers.Optimizer) -> list[optimizers.Optimizer]:
    return getattr(optimizer, "optimizers", [optimizer])


def _clipping(gradients: Tree, weight: mx.array, clip: float) -> tuple[mx.array, mx.array]:
    """What gradients are multiplied by, and the norm of ``gradients / weight`` before clipping."""
    scale = 1.0 / mx.maximum(weight, 1e-9)
    norm = scale * mx.sqrt(sum_of_squares([value for _, value in tree_flatten(gradients)]))
    return scale * mx.minimum(1.0, clip / (norm + 1e-6)), norm


def _portions(masters: Tree, portion_bytes: int) -> list[list[str]]:
    """Names of the tensors that are updated together, in order."""
    portions: list[list[str]] = [[]]
    room = portion_bytes
    for name, value in tree_flatten(masters):
        if portions[-1] and value.nbytes > room:
            portions.append([])
            room = portion_bytes
        portions[-1].append(name)
        room -= value.nbytes
    return portions


def _compiled_update(optimizer: optimizers.Optimizer) -> Callable[..., Any]:
    """(some masters, their gradients, factor) -> these masters, new."""
    state = [optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def update(masters: Tree, gradients: Tree, factor: mx.array) -> Tree:
        scaled = tree_map(lambda value: value * factor, gradients)
        updated = optimizer.apply_gradients(scaled, masters)
        # MLX merges its parts through sets: without an order of our own, sums over all weights
        # would differ in their last bits from one process to the next.
        ordered: Tree = tree_map(lambda _, value: value, masters, updated)
        return ordered

    return update
