"""The first steps of a runner, before it serves: they compile kernels and show that it can run.

Plans only: who runs them does so between the steps of live requests.
"""

from collections.abc import Iterator

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import DecodeRow, PrefillRow, RowBytes, StepPlan
from dflash_serve.engine.types import SamplingParams

_ROWS = 2


def scratch_rows(config: EngineConfig, row_bytes: RowBytes) -> tuple[int, int]:
    """Rows that the first steps run at once under the memory limit, and the bytes they take."""
    each = row_bytes(1 + config.round_tokens)
    rows = min(config.max_batch, _ROWS)
    if config.memory_limit and rows * each > config.memory_limit:
        rows = 1
    return rows, rows * each


def first_steps(config: EngineConfig, rows: int = _ROWS) -> Iterator[StepPlan]:
    """A prompt of one token and each kind of round for one row, then for ``rows``, one or two.

    The rows have numbers below zero, which no request's row has. Nothing if a block has no room.
    """
    if config.max_context <= config.round_tokens:
        return
    greedy = SamplingParams()
    closed: tuple[int, ...] = ()
    for count in range(1, rows + 1):
        numbers = tuple(-count - index for index in range(count))
        prefill = tuple(PrefillRow(row, 0, (0,), True, greedy) for row in numbers)
        yield StepPlan(closed=closed, prefill=prefill)
        block = config.block_size
        decode = tuple(DecodeRow(row, 1, 0, block, greedy) for row in numbers)
        for nodes in config.tree_nodes if block > 1 else (0,):
            yield StepPlan(decode=decode, nodes=nodes)
        closed = numbers
