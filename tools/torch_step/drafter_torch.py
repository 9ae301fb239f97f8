"""The DFlash draft network and its training loss in PyTorch; parameter names are those on disk.

Written as a PyTorch trainer would have it on a CPU: the context's keys and values once per layer,
all blocks of a step as one batch, one softmax over [context; own block], no mask larger than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of a drafter of full, not causal layers."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    taps: int
    layers: int
    mask_id: int
    rope_theta: float = 1e6
    eps: float = 1e-6


@dataclass(frozen=True, slots=True)
class Batch:
    """S sequences of T tokens with N blocks of B slots, as the trainer's `StepBatch`."""

    taps: Tensor
    anchors: Tensor
    labels: Tensor
    weights: Tensor
    visible: Tensor


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Split halves; x [R, heads, q, hd], tables [R, 1, q, hd / 2]."""
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), -1)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        heads, kv, dim = config.heads, config.kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden, heads * dim, bias=False)
        self.k_proj = nn.Linear(config.hidden, kv * dim, bias=False)
        self.v_proj = nn.Linear(config.hidden, kv * dim, bias=False)
        self.o_proj = nn.Linear(heads * dim, config.hidden, bias=False)
        self.q_norm = RMSNorm(dim, config.eps)
        self.k_norm = RMSNorm(dim, config.eps)

    def keys_values(self, x: Tensor, tables: KeysValues) -> KeysValues:
        """[R, q, H] -> keys and values [R, kv, q, hd]."""
        split = (*x.shape[:2], self.config.kv_heads, self.config.head_dim)
        keys = self.k_norm(self.k_proj(x).view(split)).transpose(1, 2)
        return rotate(keys, *tables), self.v_proj(x).view(split).transpose(1, 2)

    def forward(self, x: Tensor, tables: KeysValues, context: KeysValues, mask: Tensor) -> Tensor:
        """Rows [S * N, B, H] of all blocks; ``mask`` [S, N, 1, T + B] is added to the scores."""
        config, (sequences, count) = self.config, mask.shape[:2]
        rows, block, _ = x.shape
        queries = self.q_norm(self.q_proj(x).view(rows, block, config.heads, config.head_dim))
        queries = rotate(queries.transpose(1, 2), *tables)
        own = self.keys_values(x, tables)
        group = config.heads // config.kv_heads
        shape = (sequences, count, config.kv_heads, group * block, config.head_dim)
        q = (queries * config.head_dim**-0.5).reshape(shape).transpose(1, 2)
        k_own, v_own = (
            part.reshape(sequences, count, config.kv_heads, block, -1).transpose(1, 2)
            for part in own
        )
        q_flat = q.flatten(2, 3)  # [S, kv, N * group * B, hd]
        over = (q_flat @ context[0].transpose(-1, -2)).unflatten(2, (count, group, block))
        inside = (q @ k_own.transpose(-1, -2)).unflatten(3, (group, block))
        scores = torch.cat((over, inside), -1) + mask[:, None, :, None]
        shares = scores.softmax(-1)
        over, inside = shares.split((context[0].shape[2], block), -1)
        out = (over.flatten(2, 4) @ context[1]).view(q.shape) + inside.flatten(3, 4) @ v_own
        out = out.unflatten(3, (group, block)).permute(0, 2, 4, 1, 3, 5)
        return self.o_proj(out.reshape(rows, block, -1))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden, config.inner, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.inner, bias=False)
        self.down_proj = nn.Linear(config.inner, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden, config.eps)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.eps)

    def forward(self, x: Tensor, tables: KeysValues, context: KeysValues, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), tables, context, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Drafter(nn.Module):
    """The trained tensors; the target's embedding, which is its head too, is frozen."""

    def __init__(self, config: Config, embedding: Tensor) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(config.taps * config.hidden, config.hidden, bias=False)
        self.hidden_norm = RMSNorm(config.hidden, config.eps)
        self.norm = RMSNorm(config.hidden, config.eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.register_buffer("embedding", embedding, persistent=False)
        half = config.head_dim // 2
        self.register_buffer(
            "turns", config.rope_theta ** (-torch.arange(half) / half), persistent=False
        )

    def tables(self, positions: Tensor) -> KeysValues:
        """Positions [R, q] -> cosines and sines [R, 1, q, hd / 2]."""
        angles = positions[:, None, :, None] * self.turns
        return angles.cos(), angles.sin()

    def rows(self, batch: Batch) -> Tensor:
        """[S * N, B, H] after the final norm."""
        sequences, count, block = batch.labels.shape
        length, slots = batch.taps.shape[1], torch.arange(block)
        context = self.hidden_norm(self.fc(batch.taps))
        before = self.tables(torch.arange(length).expand(sequences, length))
        inside = self.tables(batch.anchors.reshape(-1, 1) + slots)
        hidden = torch.arange(length) >= batch.anchors[..., None, None]
        hidden = F.pad(hidden, (0, block))
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
        tokens = torch.where(slots < batch.visible[..., None], batch.labels, self.config.mask_id)
        x = F.embedding(tokens.view(sequences * count, block), self.embedding)
        for layer in self.layers:
            x = layer(x, inside, layer.self_attn.keys_values(context, before), mask)
        return self.norm(x)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """sum(w * CE) / sum(w), and which slots are right [S * N, B - 1]."""
        block = batch.labels.shape[2]
        logits = self.rows(batch)[:, 1:] @ self.embedding.T
        labels, weights = (part.view(-1, block)[:, 1:] for part in (batch.labels, batch.weights))
        entropy = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten().long(), reduction="none"
        ).view_as(weights)
        right = logits.detach().argmax(-1) == labels
        return (entropy * weights).sum() / weights.sum(), right


class Step:
    """A clipped AdamW step, whose state and weights it owns."""

    def __init__(self, drafter: Drafter, *, rate: float, clip: float, compiled: bool) -> None:
        self.drafter = drafter
        self._clip = clip
        self._forward: Any = torch.compile(drafter) if compiled else drafter
        self._optimizer = torch.optim.AdamW(
            drafter.parameters(), lr=rate, weight_decay=0.0, fused=True
        )

    def gradients(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and right slots; gradients are left at the parameters."""
        self._optimizer.zero_grad(set_to_none=True)
        loss, right = self._forward(batch)
        loss.backward()
        return loss.detach(), right

    def __call__(self, batch: Batch, rate: float | None = None) -> float:
        loss, _ = self.gradients(batch)
        nn.utils.clip_grad_norm_(self.drafter.parameters(), self._clip)
        for group in self._optimizer.param_groups:
            group["lr"] = group["lr"] if rate is None else rate
        self._optimizer.step()
        return loss.item()


def batch_of(arrays: dict[str, Tensor] | Sequence[tuple[str, Tensor]]) -> Batch:
    found = dict(arrays)
    return Batch(*(found[name] for name in Batch.__slots__))
