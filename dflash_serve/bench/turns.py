"""Things measured in turns, so that what drifts or disturbs falls on all of them alike."""

import time
from collections.abc import Callable, Sequence

_UNTIMED = 2
"""Calls before any that is timed: they trace and compile graphs."""


def in_turns(turns: Sequence[Callable[[], None]], repeats: int) -> None:
    """Each turn ``repeats`` times, the order reversed each time."""
    for repeat in range(repeats):
        for turn in turns[:: -1 if repeat % 2 else 1]:
            turn()


def timed(
    calls: Sequence[Callable[[], object]],
    repeats: int,
    *,
    within: float = float("inf"),
    least: int = 3,
) -> list[list[float]]:
    """Seconds of each call in ``repeats`` turns, after untimed ones.

    After ``within`` seconds no further turn starts, if there were ``least`` of them.
    """
    for call in [*calls] * _UNTIMED:
        call()
    times: list[list[float]] = [[] for _ in calls]
    until = time.perf_counter() + within
    for done in range(repeats):
        if done >= least and time.perf_counter() > until:
            break
        for call, taken in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
    return times
