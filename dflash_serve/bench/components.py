"""What the parts of a round cost on this machine: a plain step, a verify pass, a draft.

Each is measured by itself, in turns, at one length; knows nothing of acceptance or requests.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

import mlx.core as mx

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.bench.simulated import VerifyOnly
from dflash_serve.bench.turns import timed
from dflash_serve.engine.cache.pool import DRAFTER, CachePool
from dflash_serve.engine.cache.span import Span
from dflash_serve.engine.cache.stores import Row, attending, committed
from dflash_serve.engine.plan import DecodeRow, Runner, StepPlan
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import SamplingParams
from dflash_serve.measure.figures import middle

_LEAST, _MOST, _SECONDS = 5, 40, 3.0
"""Turns: at least, at most, and the seconds after which no further one starts."""


@dataclass(frozen=True, slots=True)
class RoundCosts:
    """Median seconds at ``rows`` rows of ``length`` tokens.

    plain: one token per row without a drafter. verify: one target pass over ``block`` tokens per
    row, acceptance included. draft: proposals and the context of one block. round: the engine's
    own round, all of it in one graph.
    """

    rows: int
    block: int
    length: int
    plain: float
    verify: float
    draft: float
    round: float

    def as_dict(self) -> dict[str, float]:
        shape = {name: getattr(self, name) for name in ("rows", "block", "length")}
        times = ("plain", "verify", "draft", "round")
        return {
            **shape,
            **{f"{name}_ms": 1e3 * getattr(self, name) for name in times},
            "break_even_tokens_per_round": (self.draft + self.verify) / self.plain,
        }


@dataclass(frozen=True, slots=True)
class SpanSize:
    """Rows, tokens per row in one forward, and tokens that each row holds before it."""

    rows: int
    block: int
    length: int


def measure_costs(
    target: TargetAdapter, drafter: DraftAdapter, rows: int, block: int, length: int
) -> RoundCosts:
    """Time the parts of a round, in turns so that other load falls on all of them alike."""
    greedy = SamplingParams()

    def round_of(runner: Runner, width: int) -> Callable[[], object]:
        decode = tuple(DecodeRow(row, length, 0, width, greedy) for row in range(rows))
        return lambda: runner.run(StepPlan(decode=decode))

    with ExitStack() as stack:
        plain, verify, whole = (
            stack.enter_context(closing(DeviceRunner(target, one, width)))
            for one, width in ((None, 1), (VerifyOnly(target.dtype), block), (drafter, block))
        )
        calls = [
            round_of(plain, 1),
            round_of(verify, block),
            _draft_call(drafter, target.hidden_size, SpanSize(rows, block, length)),
            round_of(whole, block),
        ]
        times = timed(calls, _MOST, within=_SECONDS, least=_LEAST)
    return RoundCosts(rows, block, length, *map(middle, times))


def _draft_call(drafter: DraftAdapter, hidden: int, size: SpanSize) -> Callable[[], object]:
    """One draft over a context of ``length`` tokens and the writing of a block of context."""
    rows, block = size.rows, size.block
    numbers = range(rows)
    pool = CachePool({DRAFTER: drafter.cache_specs})
    for row in numbers:
        pool.reserve(row, size.length + block)
    offsets = mx.full((rows,), size.length, dtype=mx.int32)
    blocks = mx.full((rows,), block, dtype=mx.int32)
    anchors = mx.zeros((rows,), dtype=mx.int32)
    width = len(drafter.target_layer_ids) * hidden
    taps = mx.zeros((rows, block, width), dtype=drafter.dtype)

    def traced(taps: mx.array, offsets: mx.array, held: list[Row]) -> tuple[mx.array, list[Row]]:
        span = Span(offsets, blocks, block, (block,) * rows)
        store = pool.models[DRAFTER]
        views = store.views(held, span)
        drafts = drafter.draft(anchors, block, attending(views)).chain()
        context = store.views(committed(views, blocks), span)
        drafter.append_context(taps, attending(context))
        return drafts, committed(context, blocks)

    compiled = mx.compile(traced)

    def call() -> None:
        drafts, after = compiled(taps, offsets, pool.take(numbers)[DRAFTER])
        pool.put(numbers, {DRAFTER: after})
        mx.eval(drafts, pool.arrays())
        mx.eval(pool.settle(dict.fromkeys(numbers, size.length)))

    return call
