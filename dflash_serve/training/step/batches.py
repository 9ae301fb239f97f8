"""Which examples go into which step: an endless, seeded stream of batches, epoch by epoch.

Lengths are rounded up to a few sizes, so that a compiled step meets few shapes. Plain Python.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np


@dataclass(frozen=True, slots=True)
class Batch:
    """Different examples that are padded to ``length``, and the epoch that draws them."""

    indices: tuple[int, ...]
    epoch: int
    length: int


def padded_length(length: int, bucket: int) -> int:
    """``length`` rounded up to a multiple of ``bucket``."""
    return -(-length // bucket) * bucket


def steps_per_epoch(examples: int, size: int) -> int:
    """Batches of one epoch: only the last of them is smaller than ``size``."""
    return -(-examples // size)


def batches(
    lengths: Sequence[int], size: int, bucket: int, seed: int, *, skip: int = 0
) -> Iterator[Batch]:
    """All batches from number ``skip`` on: each example once per epoch, in an order of its own.

    Batches hold ``size`` examples of one padded length. What is left of every length at the end of
    an epoch is joined with what is left of its neighbours; one batch of an epoch may be smaller.
    """
    if not lengths:
        raise ValueError("there is nothing to train on")
    first, done = divmod(skip, steps_per_epoch(len(lengths), size))
    for epoch in count(first):
        yield from _epoch(lengths, size, bucket, seed, epoch)[done:]
        done = 0


def _epoch(lengths: Sequence[int], size: int, bucket: int, seed: int, epoch: int) -> list[Batch]:
    rng = np.random.default_rng((seed, epoch))
    by_length: dict[int, list[int]] = {}
    for index in rng.permutation(len(lengths)).tolist():
        by_length.setdefault(padded_length(lengths[index], bucket), []).append(index)
    made: list[Batch] = []
    left: list[int] = []
    for length, indices in sorted(by_length.items(), reverse=True):
        whole = len(indices) // size * size
        made += _cut(indices[:whole], size, epoch, length)
        left += indices[whole:]
    for start in range(0, len(left), size):  # the longest first: so padding is least
        longest = padded_length(lengths[left[start]], bucket)
        made += _cut(left[start : start + size], size, epoch, longest)
    return [made[at] for at in rng.permutation(len(made))]


def _cut(indices: list[int], size: int, epoch: int, length: int) -> list[Batch]:
    return [
        Batch(tuple(indices[start : start + size]), epoch, length)
        for start in range(0, len(indices), size)
    ]
