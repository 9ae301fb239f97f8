"""Sample-and-match: the target's token at each position, drawn with a key of (seed, position).

A draft is accepted while it equals that token, so the text depends on the seed alone: not on the
drafter, the block size or the neighbours. Gumbel-max draws from the filtered distribution.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
Words = npt.NDArray[np.uint64]


def position_keys(seeds: Sequence[int], first: Sequence[int], width: int) -> npt.NDArray[np.uint32]:
    """Random keys [K, width, 2] of the tokens at positions first .. first + width - 1 of K rows.

    A position's key is two 32-bit words of SplitMix64 over (seed, position).
    """
    row_seeds = np.array([seed & _MASK for seed in seeds], dtype=np.uint64)
    positions = np.array([range(at, at + width) for at in first], dtype=np.uint64)
    words = _mix(_mix(row_seeds)[:, None] + positions * np.uint64(0x9E3779B97F4A7C15))
    halves = np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)], axis=-1)
    return halves.astype(np.uint32)


def _mix(words: Words) -> Words:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014), modulo 2**64."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def process(logits: mx.array, settings: mx.array, filtered: bool) -> mx.array:
    """Scores [K, width, V] -> log-weights [K, width, V] float32: temperature, top-k, top-p, min-p.

    Removed tokens are -inf. Tokens that tie with the last kept one are kept too.
    """
    temperature, top_p, top_k, min_p = (settings[:, i, None, None] for i in range(4))
    scores = logits.astype(mx.float32) / temperature
    if not filtered:
        return scores
    ordered = -mx.sort(-scores, axis=-1)
    rank = mx.arange(scores.shape[-1], dtype=mx.float32)
    in_top_k = (top_k == 0) | (rank < top_k)
    probabilities = mx.softmax(mx.where(in_top_k, ordered, -mx.inf), axis=-1, precise=True)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    kept = in_top_k & ((before < top_p) | (top_p >= 1.0) | (rank == 0))
    kept = kept & (probabilities >= min_p * probabilities[..., :1])
    cutoff = mx.min(mx.where(kept, ordered, mx.inf), axis=-1, keepdims=True)
    return mx.where(scores >= cutoff, scores, -mx.inf)


def draw(scores: mx.array, keys: mx.array) -> mx.array:
    """Log-weights [K, width, V], keys [K, width, 2] -> tokens [K, width] int32 by Gumbel-max."""
    gumbel = mx.vmap(lambda key: mx.random.gumbel((scores.shape[-1],), key=key))
    noise = gumbel(keys.reshape(-1, 2)).reshape(scores.shape)
    return mx.argmax(scores + noise, axis=-1).astype(mx.int32)
