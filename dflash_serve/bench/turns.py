"""Things measured in turns, so that what drifts or disturbs falls on all of them alike."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

_UNTIMED = 2
"""Calls before any that is timed: they trace and compile graphs."""


def in_turns(turns: Sequence[Callable[[], None]], repeats: int) -> None:
    """Each turn ``repeats`` times, the order reversed each time."""
    for repeat in range(repeats):
        for turn in turns[:: -1 if repeat % 2 else 1]:
            turn()


class Timing(NamedTuple):
    """Seconds of one call: on the clock, and of processor time, which neighbours disturb less."""

    wall: float
    cpu: float


def timing(call: Callable[[], object]) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def for_seconds(
    call: Callable[[], object], seconds: float, *, least: int = 1, most: int = sys.maxsize
) -> list[Timing]:
    """Calls one after another, until ``seconds`` are over."""
    until = time.perf_counter() + seconds
    times: list[Timing] = []
    while len(times) < least or (len(times) < most and time.perf_counter() < until):
        times.append(timing(call))
    return times


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
    turns: list[list[float]] = []
    until = time.perf_counter() + within
    while len(turns) < repeats and (len(turns) < least or time.perf_counter() < until):
        turns.append([timing(call).wall for call in calls])
    return [list(own) for own in zip(*turns, strict=True)]
