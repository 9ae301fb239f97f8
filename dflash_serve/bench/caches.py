"""``dflash-bench caches``: rows that own their caches, in time and in bytes.

A round of rows of very different length against its parts, what a leave costs, and what random
schedules allocate. Times are compared in turns within one run.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.options import CachesOptions
from dflash_serve.bench.pair import Pair, PairChoice, load_pair
from dflash_serve.bench.report import bars, picture, table_of
from dflash_serve.bench.schedules import ALLOWED, BESIDE, SLACK, load_world, run_schedules
from dflash_serve.bench.turns import timed
from dflash_serve.engine.plan import DecodeRow, StepPlan
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import SamplingParams
from dflash_serve.measure.figures import middle
from dflash_serve.measure.results import Result

RAGGED = 1.25
"""Times its parts that a round of one long row and several short ones may take."""
LEAVE = 0.03
"""Share of a round that a leave may cost."""
_GREEDY = SamplingParams()


def run(options: CachesOptions) -> Result:
    """All three measurements; a figure that is missed is a failure."""
    choice = PairChoice(
        random_target=options.random_target, block_size=max(2, *options.blocks), seed=options.seed
    )
    pair = load_pair(choice)
    ragged = [_ragged(pair, options, block) for block in options.blocks]
    leave = [_leave(pair, options, block) for block in options.blocks]
    shares = _shares(options.schedules, len(options.worlds))
    schedules = [
        run_schedules(load_world(name, options.seed), share, options.seed)
        for name, share in zip(options.worlds, shares, strict=True)
        if share
    ]
    measured = {
        "pair": pair.describe(),
        "ragged": ragged,
        "leave": leave,
        "schedules": schedules,
        "slack_tokens": SLACK,
        "bytes_beside": BESIDE,
    }
    failures = [*_missed(ragged, leave), *(text for one in schedules for text in one["failures"])]
    return Result("caches", options.recorded(), measured, tuple(failures))


def _ragged(pair: Pair, options: CachesOptions, block: int) -> dict[str, Any]:
    """Milliseconds of a round of the long row, of the short ones, and of all of them."""
    runner = DeviceRunner(pair.target, pair.drafter if block > 1 else None, block)
    rows = _decode([options.long] + [options.short] * (options.rows - 1), block)
    arms = {"long": rows[:1], "short": rows[1:], "all": rows}
    rounds = [partial(runner.run, StepPlan(decode=arm)) for arm in arms.values()]
    taken = timed(rounds, options.repeats)
    runner.close()
    ratios = [both / (long + short) for long, short, both in zip(*taken, strict=True)]
    times = {name: 1e3 * middle(own) for name, own in zip(arms, taken, strict=True)}
    return {"block": block, "round_ms": times, "ratio": middle(ratios)}


def _leave(pair: Pair, options: CachesOptions, block: int) -> dict[str, Any]:
    """A step in which a row is closed and the round behind it, against that round alone.

    The fastest of all turns are compared: a leave is so short that other load would hide it.
    ``bytes``: how far memory rises above what is active before, with the leave and without it.
    """
    runner = DeviceRunner(pair.target, pair.drafter if block > 1 else None, block)
    rows = _decode([options.leave] * options.rows, block)
    everybody, others = StepPlan(decode=rows), StepPlan(decode=rows[:-1])
    close = StepPlan(closed=(rows[-1].row,))
    risen: dict[str, list[int]] = {"with": [], "without": []}

    def step(name: str, *plans: StepPlan) -> None:
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        for plan in plans:
            runner.run(plan)
        risen[name].append(max(0, mx.get_peak_memory() - before))

    taken = timed(
        [
            partial(runner.run, everybody),  # gives the row its caches again
            partial(runner.run, everybody),
            partial(step, "without", others),
            partial(step, "with", close, others),
        ],
        options.repeats,
    )
    row = runner.cache_bytes // (options.rows - 1)
    runner.close()
    _, full, without, leaving = (1e3 * min(own) for own in taken)
    return {
        "block": block,
        "round_ms": full,
        "without_ms": without,
        "with_ms": leaving,
        "of_a_round": (leaving - without) / full,
        "bytes": {name: max(own) for name, own in risen.items()},
        "row_bytes": row,
    }


def _decode(lengths: Sequence[int], block: int) -> tuple[DecodeRow, ...]:
    """Rows of a round. A runner makes their caches; nobody has to prefill them."""
    return tuple(DecodeRow(row, length, 5, block, _GREEDY) for row, length in enumerate(lengths))


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def _missed(ragged: Sequence[dict[str, Any]], leave: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Figures of time and of a leave that are above what is allowed."""
    for one in ragged:
        if one["ratio"] > RAGGED:
            yield (
                f"block {one['block']}: a round of long and short rows takes {one['ratio']:.3f} "
                f"times its parts; allowed are {RAGGED}"
            )
    for one in leave:
        cost, moved = one["of_a_round"], one["bytes"]["with"] - one["bytes"]["without"]
        if cost > LEAVE:
            yield f"block {one['block']}: a leave costs {cost:.1%} of a round, not {LEAVE:.0%}"
        if moved > one["row_bytes"]:
            yield f"a leave allocates {moved} bytes; a row has {one['row_bytes']}"


def tables(result: Result) -> list[Table]:
    found, options = result.measured, result.settings
    short = options["rows"] - 1
    parts = f"one row of {options['long']} tokens, {short} of {options['short']}"
    return [
        table_of(
            f"Rounds: {parts}",
            found["ragged"],
            "block round_ms.long round_ms.short round_ms.all ratio",
        ),
        table_of(
            f"A leave: {options['rows']} rows of {options['leave']} tokens, bytes allocated",
            found["leave"],
            "block round_ms without_ms with_ms of_a_round bytes.without bytes.with row_bytes",
        ),
        table_of(
            "Bytes of caches in random schedules",
            found["schedules"],
            "target schedules steps requests aborts swaps worst_ratio_beyond_slack worst_of_limit "
            "wrong",
        ),
    ]


def plot(result: Result) -> Figure:
    """Every figure against what is allowed, as shares of it."""
    found = result.measured
    shares = [
        *((f"ragged rows, block {one['block']}", one["ratio"] / RAGGED) for one in found["ragged"]),
        *((f"leave, block {one['block']}", one["of_a_round"] / LEAVE) for one in found["leave"]),
        *(
            (f"bytes of needs, {one['target']}", one["worst_ratio_beyond_slack"] / ALLOWED)
            for one in found["schedules"]
        ),
        *((f"of limit, {one['target']}", one["worst_of_limit"]) for one in found["schedules"]),
    ]
    entries = [{"name": name, "share": share} for name, share in shares]
    return picture(bars("share of what is allowed", entries, "name", "share", limit=1.0), width=8)
