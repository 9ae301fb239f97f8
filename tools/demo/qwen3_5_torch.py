"""A small Qwen3.5 text model in PyTorch for training: three GatedDeltaNet layers to each attention.

Parameter names and values are those of Hugging Face checkpoints: norm weights are kept minus one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from qwen3_torch import attend, rotate
from torch import Tensor, nn

CHUNK = 64
"""Tokens whose updates of the state are computed together."""


@dataclass(frozen=True, slots=True)
class HybridShape:
    """The sizes that config.json needs. Keys of the recurrence are as wide as its values."""

    vocab: int = 1024
    hidden: int = 256
    layers: int = 4
    interval: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    rotary_dim: int = 16
    state_key_heads: int = 2
    state_heads: int = 4
    state_dim: int = 64
    kernel: int = 4
    intermediate: int = 896
    rope_theta: float = 10000.0
    max_positions: int = 2048

    @property
    def key_width(self) -> int:
        return self.state_key_heads * self.state_dim

    @property
    def value_width(self) -> int:
        return self.state_heads * self.state_dim

    def attends(self, layer: int) -> bool:
        return (layer + 1) % self.interval == 0

    def config(self, eos: int, pad: int) -> dict[str, Any]:
        """Of the text model alone: with ``qwen3_5`` transformers would not read tokenizer.json."""
        kinds = {True: "full_attention", False: "linear_attention"}
        return {
            "architectures": ["Qwen3_5ForCausalLM"],
            "model_type": "qwen3_5_text",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_output_gate": True,
            "bos_token_id": None,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "full_attention_interval": self.interval,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "layer_types": [kinds[self.attends(i)] for i in range(self.layers)],
            "linear_conv_kernel_dim": self.kernel,
            "linear_key_head_dim": self.state_dim,
            "linear_num_key_heads": self.state_key_heads,
            "linear_num_value_heads": self.state_heads,
            "linear_value_head_dim": self.state_dim,
            "max_position_embeddings": self.max_positions,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": self.rope_theta,
                "partial_rotary_factor": self.rotary_dim / self.head_dim,
            },
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            "use_cache": True,
            "vocab_size": self.vocab,
        }


class RMSNorm(nn.Module):
    """With a weight around zero, which stands for one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return (normalised(x) * (1 + self.weight)).to(x.dtype)


def normalised(x: Tensor) -> Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class GatedNorm(nn.Module):
    """Norm of each head, then a gate; its weight is stored as it is."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return normalised(x) * self.weight * F.silu(gate.float())


def gated_delta(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
    """The gated delta rule over whole sequences, a chunk at a time, from a state of zeros.

    q, k, v: [B, H, T, D]; decay: the logarithm of what is kept of the state, beta: the share of
    the new value, both [B, H, T]. Token by token it is

        S = exp(decay) S;  u = beta (v - S k);  S = S + u k^T;  y = S q

    Within a chunk u depends on the chunk's earlier u by a triangular matrix, which is solved for
    all tokens at once, with what the state before the chunk adds kept apart. T is a multiple of
    `CHUNK`. Returns y [B, H, T, D].
    """
    batch, heads, length, width = q.shape
    chunks = (batch, heads, length // CHUNK, CHUNK)
    q, k, v = (x.view(*chunks, width) for x in (q, k, v))
    since = decay.view(chunks).cumsum(-1)  # from the chunk's first token, itself included
    beta = beta.view(*chunks, 1)
    earlier = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril()
    between = (since[..., :, None] - since[..., None, :]).masked_fill(~earlier, float("-inf")).exp()
    depends = (beta * (k @ k.mT) * between).tril(-1)
    known = torch.cat((beta * v, beta * since.exp()[..., None] * k), -1)
    own, from_state = torch.linalg.solve_triangular(
        depends, known, upper=False, unitriangular=True
    ).chunk(2, -1)
    seen = (q @ k.mT) * between
    reads = q * since.exp()[..., None]
    keeps = k * (since[..., -1:] - since).exp()[..., None]
    leaves = since[..., -1].exp()[..., None, None]
    state = q.new_zeros(batch, heads, width, width)  # [key, value]
    out = []
    for c in range(length // CHUNK):
        update = own[:, :, c] - from_state[:, :, c] @ state
        out.append(reads[:, :, c] @ state + seen[:, :, c] @ update)
        state = leaves[:, :, c] * state + keeps[:, :, c].mT @ update
    return torch.stack(out, 2).view(batch, heads, length, width)


class GatedDeltaNet(nn.Module):
    """A recurrent layer: short convolution, delta rule, gated norm."""

    def __init__(self, shape: HybridShape) -> None:
        super().__init__()
        self.shape = shape
        mixed = 2 * shape.key_width + shape.value_width
        self.in_proj_qkv = nn.Linear(shape.hidden, mixed, bias=False)
        self.in_proj_z = nn.Linear(shape.hidden, shape.value_width, bias=False)
        self.in_proj_b = nn.Linear(shape.hidden, shape.state_heads, bias=False)
        self.in_proj_a = nn.Linear(shape.hidden, shape.state_heads, bias=False)
        self.conv1d = nn.Conv1d(
            mixed, mixed, shape.kernel, groups=mixed, bias=False, padding=shape.kernel - 1
        )
        step = torch.logspace(-3, -1, shape.state_heads)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus gives step
        self.A_log = nn.Parameter(torch.linspace(1, 16, shape.state_heads).log())
        self.norm = GatedNorm(shape.state_dim)
        self.out_proj = nn.Linear(shape.value_width, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        short = -length % CHUNK
        x = F.pad(x, (0, 0, 0, short))
        y = gated_delta(*self._heads(x), *self._gates(x)).transpose(1, 2)
        z = self.in_proj_z(x).view(y.shape)
        y = self.norm(y, z).reshape(batch, length + short, -1)
        return self.out_proj(y[:, :length])

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, of length one each, and values: [B, H, T, D]."""
        shape, length = self.shape, x.shape[1]
        mixed = self.in_proj_qkv(x).float().mT
        mixed = F.silu(self._convolve(mixed, length)).mT
        parts = mixed.split((shape.key_width, shape.key_width, shape.value_width), -1)
        q, k, v = (y.unflatten(-1, (-1, shape.state_dim)).transpose(1, 2) for y in parts)
        q, k = (y * torch.rsqrt(y.square().sum(-1, keepdim=True) + 1e-6) for y in (q, k))
        each = shape.state_heads // shape.state_key_heads
        q, k = (y.repeat_interleave(each, 1) for y in (q * shape.state_dim**-0.5, k))
        return q, k, v.contiguous()

    def _convolve(self, mixed: Tensor, length: int) -> Tensor:
        """Each channel's own causal filter: a few shifted sums, cheaper than a convolution here."""
        kernel = self.conv1d.weight[:, 0]  # [C, K]
        padded = F.pad(mixed, (self.shape.kernel - 1, 0))
        taps = (kernel[:, i, None] * padded[..., i : i + length] for i in range(self.shape.kernel))
        return torch.stack(list(taps)).sum(0)

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the decay, and the share of the new value: [B, H, T]."""
        step = F.softplus(self.in_proj_a(x).float() + self.dt_bias)
        decay = -self.A_log.exp() * step
        return decay.mT, self.in_proj_b(x).float().sigmoid().mT


class GatedAttention(nn.Module):
    """Full attention whose output a gate scales; rotary embeddings turn a part of each head."""

    def __init__(self, shape: HybridShape) -> None:
        super().__init__()
        wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, 2 * wide, bias=False)  # per head: query, gate
        self.k_proj = nn.Linear(shape.hidden, narrow, bias=False)
        self.v_proj = nn.Linear(shape.hidden, narrow, bias=False)
        self.o_proj = nn.Linear(wide, shape.hidden, bias=False)
        self.q_norm = RMSNorm(shape.head_dim)
        self.k_norm = RMSNorm(shape.head_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, gate = self.q_proj(x).view(batch, length, self.shape.heads, -1).chunk(2, -1)
        k, v = (
            proj(x).view(batch, length, -1, self.shape.head_dim)
            for proj in (self.k_proj, self.v_proj)
        )
        q = self._rotate(self.q_norm(q).transpose(1, 2), cos, sin)
        k = self._rotate(self.k_norm(k).transpose(1, 2), cos, sin)
        groups = self.shape.heads // self.shape.kv_heads
        k, v = (y.repeat_interleave(groups, 1) for y in (k, v.transpose(1, 2)))
        out = attend(q, k.to(v.dtype), v).transpose(1, 2)
        return self.o_proj((out * gate.sigmoid()).reshape(batch, length, -1))

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        turned, rest = x.split((self.shape.rotary_dim, x.shape[-1] - self.shape.rotary_dim), -1)
        return torch.cat((rotate(turned, cos, sin), rest), -1)


class MLP(nn.Module):
    def __init__(self, shape: HybridShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: HybridShape, index: int) -> None:
        super().__init__()
        self.attends = shape.attends(index)
        if self.attends:
            self.self_attn = GatedAttention(shape)
        else:
            self.linear_attn = GatedDeltaNet(shape)
        self.mlp = MLP(shape)
        self.input_layernorm = RMSNorm(shape.hidden)
        self.post_attention_layernorm = RMSNorm(shape.hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        inner = self.input_layernorm(x)
        x = x + (self.self_attn(inner, cos, sin) if self.attends else self.linear_attn(inner))
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, shape: HybridShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape, i) for i in range(shape.layers))
        self.norm = RMSNorm(shape.hidden)


class Qwen35(nn.Module):
    """Tied embeddings; forward returns logits [B, T, V]."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: HybridShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        half = torch.arange(0, shape.rotary_dim, 2).float() / shape.rotary_dim
        angles = torch.outer(torch.arange(shape.max_positions).float(), shape.rope_theta**-half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 if "embed" in name else 0.04)
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)
