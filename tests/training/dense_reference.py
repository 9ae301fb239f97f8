"""One training step written out: every block alone, every row's mask spelled out, full logits.

Plain float64 operations on the checkpoint's tensors by name. Knows no code of the trainer.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.dflash_config import DFlashConfig

Weights = Mapping[str, mx.array]
F64 = mx.float64  # exists on the CPU only: what calls this file must compute there


@dataclass(frozen=True)
class Clean:
    """A sequence of T tokens. taps [T, K * H]; final [T, H] the target's last hidden, normed."""

    tokens: Sequence[int]
    loss_mask: Sequence[bool]
    taps: mx.array
    final: mx.array | None = None


@dataclass(frozen=True)
class Drawn:
    """A block at ``anchor`` whose slots 0 .. visible - 1 hold real tokens, the rest masks."""

    anchor: int
    keep: bool = True
    visible: int = 1


def prefixes(smooth: list[float]) -> list[float]:
    """C_k: the chance that slots 1 to k are all right."""
    return [math.prod(smooth[: k + 1]) for k in range(len(smooth))]


def expected(smooth: list[float]) -> list[float]:
    """D-PACE's weights: C_k + ... + C_n."""
    return [sum(prefixes(smooth)[k:]) for k in range(len(smooth))]


def continuations(smooth: list[float]) -> list[float]:
    """How many slots from k on are expected to be right if those up to k are."""
    return [1.0 + sum(prefixes(smooth[k + 1 :])) for k in range(len(smooth))]


@dataclass(frozen=True)
class Goal:
    """Weights exp(-(k - visible) / gamma), or D-PACE's of its form ``paced``, with alpha ``pace``.

    soft: the share of KL(target || drafter).
    """

    gamma: float = 4.0
    soft: float = 0.0
    pace: float | None = None
    paced: Callable[[list[float]], list[float]] = expected
    selector: float = 0.0


@dataclass(frozen=True)
class DenseStep:
    """A drafter's shape with its target's frozen embedding [V, H] and head [V, H]."""

    config: DFlashConfig
    embedding: mx.array
    lm_head: mx.array

    def loss(
        self, weights: Weights, data: Sequence[tuple[Clean, Sequence[Drawn]]], goal: Goal
    ) -> mx.array:
        """sum(w * CE) / sum(w) over all blocks of all sequences; 0 if no slot counts."""
        above, below = self.sums(weights, data, goal)
        return above / mx.where(below == 0, mx.array(1.0, F64), below)

    def sums(
        self, weights: Weights, data: Sequence[tuple[Clean, Sequence[Drawn]]], goal: Goal
    ) -> tuple[mx.array, mx.array]:
        above = below = mx.array(0.0, F64)
        for clean, blocks in data:
            for drawn in blocks:
                if drawn.keep:
                    a, b = self._block_sums(weights, clean, drawn, goal)
                    above, below = above + a, below + b
        return above, below

    def rows(self, clean: Clean, drawn: Drawn) -> list[int]:
        """Token ids of the block's rows; a visible slot past the end holds the mask."""
        slots = range(self.config.block_size)
        real = [k < drawn.visible and drawn.anchor + k < len(clean.tokens) for k in slots]
        return [
            clean.tokens[drawn.anchor + k] if real[k] else self.config.mask_token_id for k in slots
        ]

    def block(self, weights: Weights, taps: mx.array, rows: Sequence[int]) -> mx.array:
        """[S, K * H] taps of the tokens before the anchor, B row ids -> normed hidden [B, H]."""
        taps = taps.astype(F64)
        context = _norm(taps @ weights["fc.weight"].T, weights["hidden_norm.weight"], self._eps)
        hidden = self.embedding[mx.array(list(rows))].astype(F64)
        hidden = hidden * self.config.input_embedding_scale
        for layer in range(self.config.num_layers):
            hidden = self._layer(weights, layer, hidden, context)
        return _norm(hidden, weights["norm.weight"], self._eps)

    def logits(self, hidden: mx.array) -> mx.array:
        """Normed hidden [..., H] -> [..., V]."""
        logits = hidden @ self.lm_head.astype(F64).T * self.config.output_multiplier
        cap = self.config.final_logit_softcapping
        return cap * mx.tanh(logits / cap) if cap else logits

    def select(self, weights: Weights, hidden: mx.array, anchor: int) -> list[int]:
        """DFlash 2's greedy walk over hidden [B, H]: the tokens of slots 1 .. B - 1."""
        logits, chosen, before = self.logits(hidden), [], anchor
        for k in range(1, hidden.shape[0]):
            best = [int(i) for i in np.argsort(-np.array(logits[k]))[: self.config.selector_top_k]]
            score = self._scores(weights, hidden[k], logits[k], before, best)
            before = best[int(np.argmax(np.array(score)))]
            chosen.append(before)
        return chosen

    @property
    def _eps(self) -> float:
        return self.config.rms_norm_eps

    def _block_sums(
        self, weights: Weights, clean: Clean, drawn: Drawn, goal: Goal
    ) -> tuple[mx.array, mx.array]:
        hidden = self.block(weights, clean.taps[: drawn.anchor], self.rows(clean, drawn))
        logits = self.logits(hidden)
        counted = [
            k
            for k in range(drawn.visible, self.config.block_size)
            if drawn.anchor + k < len(clean.tokens) and clean.loss_mask[drawn.anchor + k]
        ]
        above = below = mx.array(0.0, F64)
        by_slot = _slot_weights(counted, drawn, clean, logits, goal)
        for k, weight in zip(counted, by_slot, strict=True):
            at = drawn.anchor + k
            cost = _cross_entropy(logits[k], clean.tokens[at])
            if goal.soft:
                assert clean.final is not None
                law = _softmax(self._target_logits(clean.final[at - 1]))
                soft = (law * (mx.log(law) - logits[k] + _log_sum(logits[k]))).sum()
                cost = (1 - goal.soft) * cost + goal.soft * soft
            if goal.selector:
                cost = cost + goal.selector * self._selector_cost(
                    weights, hidden[k], logits[k], clean.tokens[at - 1], clean.tokens[at]
                )
            above, below = above + weight * cost, below + weight
        return above, below

    def _target_logits(self, final: mx.array) -> mx.array:
        return final.astype(F64) @ self.lm_head.astype(F64).T

    def _selector_cost(
        self, weights: Weights, hidden: mx.array, logits: mx.array, before: int, gold: int
    ) -> mx.array:
        best = [int(i) for i in np.argsort(-np.array(logits))[: self.config.selector_top_k]]
        if gold not in best:
            best[-1] = gold
        return _cross_entropy(self._scores(weights, hidden, logits, before, best), best.index(gold))

    def _scores(
        self,
        weights: Weights,
        hidden: mx.array,
        logits: mx.array,
        before: int,
        candidates: list[int],
    ) -> mx.array:
        name = "candidate_selector."
        state = weights[f"{name}predecessor_codebook"][before] * (
            weights[f"{name}hidden_projection.weight"] @ hidden
        )
        chosen = mx.array(candidates)
        return logits[chosen] + weights[f"{name}successor_codebook"][chosen] @ state

    def _layer(self, weights: Weights, layer: int, hidden: mx.array, context: mx.array) -> mx.array:
        name = f"layers.{layer}."
        normed = _norm(hidden, weights[f"{name}input_layernorm.weight"], self._eps)
        before, after = self._convolutions(weights, f"{name}attention_conv", normed)
        hidden = hidden + after(self._attention(weights, layer, before(normed), context))
        normed = _norm(hidden, weights[f"{name}post_attention_layernorm.weight"], self._eps)
        before, after = self._convolutions(weights, f"{name}mlp_conv", normed)
        x = before(normed)
        gate = x @ weights[f"{name}mlp.gate_proj.weight"].T
        inner = gate / (1 + _exp(-gate)) * (x @ weights[f"{name}mlp.up_proj.weight"].T)
        return hidden + after(inner @ weights[f"{name}mlp.down_proj.weight"].T)

    def _convolutions(self, weights: Weights, name: str, normed: mx.array) -> "tuple[Conv, Conv]":
        """The convolutions before and after a sublayer; both kernels come from its input."""
        taps, group = self.config.conv_kernel_size, self.config.conv_group_size
        if not taps:
            return Conv(None), Conv(None)
        rows, width = normed.shape
        delta = normed @ weights[f"{name}.kernel_projection.weight"].T
        delta = mx.repeat(delta.reshape(rows, 2, taps, width // group), group, axis=-1)
        base = weights[f"{name}.base_kernel"]  # [2, taps, H]
        return Conv(base[0] + delta[:, 0]), Conv(base[1] + delta[:, 1])

    def _attention(
        self, weights: Weights, layer: int, block: mx.array, context: mx.array
    ) -> mx.array:
        config, name = self.config, f"layers.{layer}.self_attn."
        start, size, dim = context.shape[0], block.shape[0], config.head_dim
        rows = mx.concatenate([context, block])
        at = list(range(start + size))

        def split(which: str, x: mx.array, heads: int) -> mx.array:
            return (x @ weights[f"{name}{which}_proj.weight"].T).reshape(-1, heads, dim)

        queries = split("q", block, config.num_attention_heads)
        queries = _norm(queries, weights[f"{name}q_norm.weight"], self._eps)
        queries = _rotate(queries, at[start:], config.rope_theta)
        keys = split("k", rows, config.num_key_value_heads)
        keys = _rotate(
            _norm(keys, weights[f"{name}k_norm.weight"], self._eps), at, config.rope_theta
        )
        values = split("v", rows, config.num_key_value_heads)
        window, causal = config.layer_windows[layer], config.layer_causal[layer]
        mask = np.array([[_sees(q, k, start, window, causal) for k in at] for q in at[start:]])
        hidden = np.where(mask, 0.0, -np.inf)
        heads = []
        for head in range(config.num_attention_heads):
            shared = head * config.num_key_value_heads // config.num_attention_heads
            scores = queries[:, head] @ keys[:, shared].T / math.sqrt(dim)
            heads.append(_softmax(scores + mx.array(hidden, F64)) @ values[:, shared])
        return mx.concatenate(heads, axis=-1) @ weights[f"{name}o_proj.weight"].T


@dataclass(frozen=True)
class Conv:
    """A causal convolution whose kernel [B, taps, H] differs by row; None is the identity."""

    kernel: mx.array | None

    def __call__(self, x: mx.array) -> mx.array:
        if self.kernel is None:
            return x
        out = mx.zeros_like(x)
        for tap in range(self.kernel.shape[1]):
            earlier = mx.concatenate([mx.zeros((tap, x.shape[1]), F64), x])[: x.shape[0]]
            out = out + self.kernel[:, tap] * earlier
        return out


def _sees(query: int, key: int, start: int, window: int | None, causal: bool) -> bool:
    """Whether the block row at position ``query`` sees position ``key``; context ends at start."""
    if window is not None and query - key >= window:
        return False
    return key < start or key <= query or not causal


def _slot_weights(
    counted: Sequence[int], drawn: Drawn, clean: Clean, logits: mx.array, goal: Goal
) -> list[float]:
    if goal.pace is None:
        return [math.exp(-(k - drawn.visible) / goal.gamma) for k in counted]
    chance = [
        math.exp(-_cross_entropy(logits[k], clean.tokens[drawn.anchor + k]).item()) for k in counted
    ]
    return goal.paced([(1 - goal.pace) * p + goal.pace for p in chance])


def _cross_entropy(logits: mx.array, label: int) -> mx.array:
    return _log_sum(logits) - logits[label]


def _log_sum(x: mx.array) -> mx.array:
    top = mx.stop_gradient(x.max())
    return mx.log(_exp(x - top).sum()) + top


def _softmax(x: mx.array) -> mx.array:
    grown = _exp(x - mx.stop_gradient(x.max(axis=-1, keepdims=True)))
    return grown / grown.sum(axis=-1, keepdims=True)


def _exp(x: mx.array) -> mx.array:
    """MLX's own exp of a float64 is only as exact as float32."""
    return mx.power(mx.array(math.e, F64), x)


def _norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    return x / mx.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def _rotate(x: mx.array, positions: Sequence[int], theta: float) -> mx.array:
    """[n, heads, hd] at absolute positions; pairs are the first and the second half."""
    half = x.shape[-1] // 2
    angle = np.outer(positions, theta ** (-np.arange(half) / half))[:, None]
    cos, sin = mx.array(np.cos(angle), F64), mx.array(np.sin(angle), F64)
    first, second = x[..., :half], x[..., half:]
    return mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
