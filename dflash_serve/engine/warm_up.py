"""The first steps of a runner, before it serves: they compile kernels and show that it can run.

Plans only: who runs them does so between the steps of live requests.
"""

from collections.abc import Iterator

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import DecodeRow, PrefillRow, StepPlan
from dflash_serve.engine.types import SamplingParams

_ROWS = 2


def first_steps(config: EngineConfig) -> Iterator[StepPlan]:
    """A prompt of one token and a round, of one row and of two; nothing if a block has no room.

    The rows have numbers below zero, which no request's row has.
    """
    if config.max_context <= config.block_size:
        return
    greedy = SamplingParams()
    closed: tuple[int, ...] = ()
    for count in range(1, min(config.max_batch, _ROWS) + 1):
        rows = tuple(-count - index for index in range(count))
        prefill = tuple(PrefillRow(row, 0, (0,), True, greedy) for row in rows)
        yield StepPlan(closed=closed, prefill=prefill)
        decode = tuple(DecodeRow(row, 1, 0, config.block_size, greedy) for row in rows)
        yield StepPlan(decode=decode)
        closed = rows
