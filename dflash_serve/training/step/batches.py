"""Which examples go into which step: an endless, seeded stream of equally shaped batches.

Lengths are rounded up to a few sizes, so that a compiled step meets few shapes. Plain Python.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Batch:
    """S examples of one padded length, and the epoch in which each of them was drawn."""

    indices: tuple[int, ...]
    epochs: tuple[int, ...]
    length: int


def padded_length(length: int, bucket: int) -> int:
    """``length`` rounded up to a multiple of ``bucket``."""
    return -(-length // bucket) * bucket


def batches(lengths: Sequence[int], size: int, bucket: int, seed: int) -> Iterator[Batch]:
    """Shuffle anew in each epoch; examples left over in a bucket lead its next epoch.

    Every batch has exactly ``size`` examples and every example is used once per epoch.
    """
    if not lengths:
        raise ValueError("there is nothing to train on")
    waiting: dict[int, list[tuple[int, int]]] = {}  # padded length -> [(index, epoch)]
    epoch = 0
    while True:
        for index in np.random.default_rng((seed, epoch)).permutation(len(lengths)):
            length = padded_length(lengths[index], bucket)
            row = waiting.setdefault(length, [])
            row.append((int(index), epoch))
            if len(row) == size:
                del waiting[length]
                yield Batch(tuple(i for i, _ in row), tuple(e for _, e in row), length)
        epoch += 1
