"""Sample-and-match: the target's token at each position, drawn with a key of (seed, position).

A draft is accepted while it equals that token, so the text depends on the seed alone: not on the
drafter, the block size or the neighbours. Gumbel-max draws from the filtered distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from dflash_serve.engine.types import SamplingParams

_MASK = (1 << 64) - 1
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class SampledRows:
    """The sampled rows of a batch of R rows, as arrays; greedy rows are not in it.

    index [K] int32 row numbers; settings [K, 4] float32: temperature, top_p, top_k, min_p;
    keys [K, width, 2] uint32; filtered: some row uses top_p, top_k or min_p. K is padded to a
    power of two by repeating the last row, so that a changing mix of rows traces few graphs.
    """

    index: mx.array
    settings: mx.array
    keys: mx.array
    filtered: bool


def gather(rows: Sequence[tuple[SamplingParams, int]], width: int) -> SampledRows | None:
    """Rows as (params, position of the first token to choose) -> the sampled ones, or None."""
    sampled = [(i, *row) for i, row in enumerate(rows) if not row[0].greedy]
    if not sampled:
        return None
    padded = 1 << (len(sampled) - 1).bit_length()
    sampled += sampled[-1:] * (padded - len(sampled))
    settings = [[p.temperature, p.top_p, p.top_k, p.min_p] for _, p, _ in sampled]
    seeds = np.array([p.seed & _MASK for _, p, _ in sampled], dtype=np.uint64)
    positions = np.array([range(first, first + width) for _, _, first in sampled], dtype=np.uint64)
    return SampledRows(
        mx.array([i for i, _, _ in sampled], dtype=mx.int32),
        mx.array(settings, dtype=mx.float32),
        mx.array(position_keys(seeds, positions)),
        any(p.top_k > 0 or p.top_p < 1.0 or p.min_p > 0.0 for _, p, _ in sampled),
    )


def position_keys(seeds: Words, positions: Words) -> npt.NDArray[np.uint32]:
    """[K] seeds and [K, width] positions, uint64 -> random keys [K, width, 2] of each token.

    A position's key is two 32-bit words of SplitMix64 over (seed, position).
    """
    words = _mix(_mix(seeds)[:, None] + positions * np.uint64(0x9E3779B97F4A7C15))
    halves = np.stack([words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)], axis=-1)
    return halves.astype(np.uint32)


def _mix(words: Words) -> Words:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014), modulo 2**64."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def choose(logits: mx.array, sampled: SampledRows | None) -> mx.array:
    """Logits [R, width, V] -> the target's tokens [R, width] int32: argmax, or the keyed draw."""
    choices = mx.argmax(logits, axis=-1).astype(mx.int32)
    if sampled is None:
        return choices
    scores = process(logits[sampled.index], sampled.settings, sampled.filtered)
    drawn = mx.argmax(scores + _gumbel(sampled.keys, logits.shape[-1]), axis=-1)
    choices[sampled.index] = drawn.astype(mx.int32)
    return choices


def process(logits: mx.array, settings: mx.array, filtered: bool) -> mx.array:
    """Logits [K, width, V] -> log-weights [K, width, V] float32: temperature, top-k, top-p, min-p.

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
    kept = in_top_k & ((before < top_p) | (top_p >= 1.0))
    kept = kept & (probabilities >= min_p * probabilities[..., :1])
    cutoff = mx.min(mx.where(kept, ordered, mx.inf), axis=-1, keepdims=True)
    return mx.where(scores >= cutoff, scores, -mx.inf)


def _gumbel(keys: mx.array, vocab: int) -> mx.array:
    """Keys [K, width, 2] -> standard Gumbel noise [K, width, V]."""
    draw = mx.vmap(lambda key: mx.random.gumbel((vocab,), key=key))
    return draw(keys.reshape(-1, 2)).reshape(*keys.shape[:-1], vocab)
