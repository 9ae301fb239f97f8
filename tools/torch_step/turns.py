"""A worker between its turns: reads lines from stdin and answers each with a line of JSON."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Commands = dict[str, Callable[..., Any]]


def seconds_of(step: Callable[[], object]) -> Callable[[int], float]:
    """count -> seconds per step over so many steps."""

    def measure(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - started) / count

    return measure


def serve(commands: Commands) -> None:
    """Read lines [name, *arguments] until stdin ends."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(commands[name](*arguments)), flush=True)
