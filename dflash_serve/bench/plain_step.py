"""The training step written plainly: one dense mask, all logits at once, nothing compiled.

It computes what `training.step` computes, and is what that is measured against. Cross-entropy only.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx import optimizers

from dflash_serve.adapters.dflash import Attend, DFlashDrafter, DraftAttention
from dflash_serve.training.step.attention import block_tokens
from dflash_serve.training.step.train_step import StepBatch

Tree = dict[str, Any]


class PlainStep:
    """Trains the drafter's own weights; owner of the optimiser's state."""

    def __init__(
        self, drafter: DFlashDrafter, optimizer: optimizers.Optimizer, *, clip: float = 1.0
    ) -> None:
        self.drafter = drafter
        self._optimizer = optimizer
        self._clip = clip
        self._value_and_grad = nn.value_and_grad(drafter.model, self._loss)

    def gradients(self, batch: StepBatch) -> tuple[mx.array, Tree]:
        """sum(w * CE) / sum(w) and its gradient."""
        loss, gradients = self._value_and_grad(batch)
        return loss, gradients

    def step(self, batch: StepBatch) -> mx.array:
        """One clipped update at the optimiser's own rate; returns the loss."""
        loss, gradients = self.gradients(batch)
        gradients, _ = optimizers.clip_grad_norm(gradients, self._clip)
        self._optimizer.update(self.drafter.model, gradients)
        mx.eval(self.drafter.model.parameters(), self._optimizer.state, loss)
        return loss

    def _loss(self, batch: StepBatch) -> mx.array:
        logits = self.drafter.logits(self._rows(batch)[:, 1:])  # [S * N, B - 1, V]
        block = batch.labels.shape[2]
        labels = batch.labels.reshape(-1, block)[:, 1:]
        weights = batch.weights.reshape(-1, block)[:, 1:]
        entropy = nn.losses.cross_entropy(logits, labels, reduction="none")
        loss: mx.array = (weights * entropy).sum() / weights.sum()
        return loss

    def _rows(self, batch: StepBatch) -> mx.array:
        """[S * N, B, H] after the final norm."""
        model, config = self.drafter.model, self.drafter.config
        tokens = block_tokens(config.mask_token_id, batch.labels, batch.visible)
        x = self.drafter.embed_block(tokens.reshape(-1, tokens.shape[2]))
        context = model.context(batch.taps)
        for layer, (window, causal) in zip(model.layers, config.layer_kinds, strict=True):
            mask = dense_mask(batch, window=window, causal=causal)
            x = layer(x, _over(context, batch.anchors, mask))
        return model.norm(x)


def dense_mask(batch: StepBatch, *, window: int | None, causal: bool) -> mx.array:
    """[S, 1, N * B, T + N * B]: every block row over the context and over all block rows."""
    sequences, count, block = batch.labels.shape
    length = batch.taps.shape[1]
    slots = mx.arange(block, dtype=mx.int32)
    query = (batch.anchors[..., None] + slots).reshape(sequences, -1, 1)  # [S, N * B, 1]
    anchor = mx.repeat(batch.anchors, block, axis=1)[..., None]
    own = mx.repeat(mx.arange(count), block)
    key = mx.concatenate(
        [mx.broadcast_to(mx.arange(length), (sequences, length)), query[..., 0]], axis=1
    )[:, None]
    shape = (sequences, count * block, length)
    context = mx.broadcast_to(mx.arange(length) < anchor, shape)
    same = mx.broadcast_to(own[:, None] == own, (sequences, count * block, count * block))
    visible = mx.concatenate([context, same], axis=2)
    if causal:
        visible = visible & (key <= query)
    if window is not None:
        visible = visible & (query - key < window)
    return visible[:, None]


def _over(context: mx.array, anchors: mx.array, mask: mx.array) -> Attend:
    """Attention of all block rows of a sequence over [context; all block rows]."""
    sequences, count = anchors.shape

    def together(x: mx.array) -> mx.array:
        """[S * N, heads, B, hd] -> [S, heads, N * B, hd]."""
        split = x.reshape(sequences, count, *x.shape[1:]).swapaxes(1, 2)
        return split.reshape(sequences, x.shape[1], -1, x.shape[3])

    def attend(attention: DraftAttention, normed: mx.array) -> mx.array:
        at = anchors.reshape(-1)
        queries = together(attention.queries(normed, at))
        start = mx.zeros(sequences, dtype=mx.int32)
        keys, values = (
            mx.concatenate([before, together(own)], axis=2)
            for before, own in zip(
                attention.keys_values(context, start),
                attention.keys_values(normed, at),
                strict=True,
            )
        )
        seen = mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=attention.scale, mask=mask
        )
        return attention.output(seen).reshape(normed.shape)

    return attend
