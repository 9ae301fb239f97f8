"""Tokens into a target over caches of either kind."""

import random

import mlx.core as mx

from dflash_serve.adapters.base import Captured, LayerCache, TargetAdapter
from tests.adapters.caches import Rows

_RNG = random.Random(1)
PROMPT = [_RNG.randrange(96) for _ in range(37)]


def feed(
    target: TargetAdapter,
    rows: Rows,
    tokens: list[list[int]],
    taps: tuple[int, ...] = (),
    width: int = 0,
    keep: list[int] | None = None,
) -> Captured:
    """One forward of ragged rows, padded to ``width``; all their tokens stay, or ``keep`` each."""
    width = max(width, *map(len, tokens))
    padded = mx.array([row + [0] * (width - len(row)) for row in tokens], dtype=mx.int32)
    captured: list[Captured] = []

    def forward(views: list[LayerCache]) -> list[mx.array]:
        captured.append(target.forward(padded, views, taps))
        return [captured[0].hidden, *([captured[0].taps] if taps else [])]

    rows.run(list(map(len, tokens)), width, forward, keep)
    return captured[0]
