"""DFlash written out densely in float64 NumPy: no cache, all context at once, own rotation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LayerKind:
    """``window`` None is full attention; ``causal`` is inside the block."""

    window: int | None = None
    causal: bool = False


@dataclass(frozen=True)
class Reference:
    """A drafter's tensors by their stored names, its config, and its target's embedding table.

    ``shift``: the anchor's own slot predicts the first token.
    """

    weights: Mapping[str, Array]
    config: Mapping[str, Any]
    embedding: Array
    kinds: tuple[LayerKind, ...]
    embed_scale: float = 1.0
    multiplier: float = 1.0
    cap: float = 0.0
    shift: int = 0

    def logits(self, features: Array, anchor: int, block: int) -> Array:
        """Features [S, K * H] of all context -> logits [block - 1, V] of the slots after it."""
        head = self.weights.get("lm_head.weight", self.embedding)
        logits = self.rows(features, anchor, block) @ head.T * self.multiplier
        return self.cap * np.tanh(logits / self.cap) if self.cap else logits

    def rows(self, features: Array, anchor: int, block: int) -> Array:
        """As `logits`, before the head: [block - 1, H]."""
        context = self._norm(features @ self.weights["fc.weight"].T, "hidden_norm")
        masks = block - 1 - self.shift
        ids = [anchor] + [self.config["dflash_config"]["mask_token_id"]] * masks
        hidden = self.embedding[ids] * self.embed_scale
        for index, kind in enumerate(self.kinds):
            hidden = self._layer(f"layers.{index}", kind, hidden, context)
        return self._norm(hidden[1 - self.shift :], "norm")

    def _layer(self, name: str, kind: LayerKind, hidden: Array, context: Array) -> Array:
        normed = self._norm(hidden, f"{name}.input_layernorm")
        hidden = hidden + self._attention(f"{name}.self_attn", kind, normed, context)
        normed = self._norm(hidden, f"{name}.post_attention_layernorm")
        gate = normed @ self.weights[f"{name}.mlp.gate_proj.weight"].T
        up = normed @ self.weights[f"{name}.mlp.up_proj.weight"].T
        inner = gate / (1 + np.exp(-gate)) * up
        return hidden + inner @ self.weights[f"{name}.mlp.down_proj.weight"].T

    def _attention(self, name: str, kind: LayerKind, block: Array, context: Array) -> Array:
        start, dim = len(context), self.config["head_dim"]
        rows = np.concatenate([context, block])
        heads, kv_heads = (
            self.config[key] for key in ("num_attention_heads", "num_key_value_heads")
        )
        queries = self._heads(name, "q", block, heads)
        keys = self._heads(name, "k", rows, kv_heads)
        values = (rows @ self.weights[f"{name}.v_proj.weight"].T).reshape(-1, kv_heads, dim)
        at = np.arange(len(rows))
        queries = self._rotate(self._norm(queries, f"{name}.q_norm"), at[start:])
        keys = self._rotate(self._norm(keys, f"{name}.k_norm"), at)
        out = np.zeros_like(queries)
        for i in range(len(block)):
            seen = [j for j in range(len(rows)) if _sees(kind, start + i, j, start)]
            for head in range(heads):
                pair = head * kv_heads // heads
                scores = keys[seen, pair] @ queries[i, head] / np.sqrt(dim)
                weights = np.exp(scores - scores.max())
                out[i, head] = weights / weights.sum() @ values[seen, pair]
        return out.reshape(len(block), -1) @ self.weights[f"{name}.o_proj.weight"].T

    def _heads(self, name: str, which: str, x: Array, heads: int) -> Array:
        projected = x @ self.weights[f"{name}.{which}_proj.weight"].T
        return projected.reshape(len(x), heads, self.config["head_dim"])

    def _norm(self, x: Array, name: str) -> Array:
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / scale * self.weights[f"{name}.weight"]

    def _rotate(self, x: Array, positions: NDArray[np.int64]) -> Array:
        """[n, heads, hd]: pairs are the first and the second half."""
        half = x.shape[-1] // 2
        rates = self.config["rope_theta"] ** (-np.arange(half) / half)
        angle = (positions[:, None] * rates)[:, None]
        first, second = x[..., :half], x[..., half:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def _sees(kind: LayerKind, query: int, key: int, start: int) -> bool:
    """Whether absolute position ``query`` of a block that begins at ``start`` sees ``key``."""
    if kind.window is not None and query - key >= kind.window:
        return False
    return key < start or not kind.causal or key <= query
