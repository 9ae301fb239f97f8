"""Sample-and-match: the target's token at each position, drawn with a key of (seed, position).

A draft is accepted while it equals that token, so the text depends on the seed alone: not on the
drafter, the block size or the neighbours.
"""

from collections.abc import Sequence

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
