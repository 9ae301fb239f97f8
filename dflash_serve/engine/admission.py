"""Which waiting request gets a row next, and the cache memory that rows reserve. Ints only.

A request is admitted when the memory that it may come to take fits beside what all running rows
may come to take. So no row that runs is ever short of memory.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import RowBytes
from dflash_serve.engine.sequence import Sequence

SHORTEST_CONTEXT = 64
"""Tokens of one request that a memory limit must leave room for."""
_PASSES = 8
"""Requests that may pass one which does not fit. After them nobody is admitted before it."""


class Admission:
    """The waiting requests and what they reserve. Owner of the queue.

    Groups take turns: the next request is the oldest of the group with the fewest running rows,
    among equals of the group whose turn is longest ago. If it does not fit, later ones that fit
    may pass it, ``_PASSES`` of them; then the rows that run drain until it fits.
    ``elsewhere`` gives the bytes that others under the same limit have reserved.
    """

    def __init__(
        self,
        config: EngineConfig,
        row_bytes: RowBytes,
        elsewhere: Callable[[], int] = lambda: 0,
    ) -> None:
        check_limit(config, row_bytes)
        self._config = config
        self._row_bytes = row_bytes
        self._elsewhere = elsewhere
        self._groups: dict[str, deque[Sequence]] = {}  # none is empty; the next in turn first

    def __iter__(self) -> Iterator[Sequence]:
        for group in self._groups.values():
            yield from group

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, sequence: Sequence) -> None:
        sequence.reserved = self._reservation(sequence)
        self._groups.setdefault(sequence.group, deque()).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """A request that ran waits again, before all others."""
        sequence.passed = _PASSES
        group = self._groups.pop(sequence.group, deque())
        group.appendleft(sequence)
        self._groups = {sequence.group: group, **self._groups}

    def room(self, running: Collection[Sequence]) -> float:
        """Bytes that may be reserved beside ``running``."""
        limit = self._config.memory_limit or math.inf
        return limit - self._elsewhere() - sum(sequence.reserved for sequence in running)

    def take(self, running: Collection[Sequence]) -> Sequence | None:
        """Take out the next request that fits beside ``running``; None if there is none."""
        if not self._groups or len(running) == self._config.max_batch:
            return None
        room = self.room(running)
        passed: list[Sequence] = []
        for sequence in self._in_turn(Counter(row.group for row in running)):
            if sequence.reserved <= room:
                for other in passed:
                    other.passed += 1
                return self._leave(sequence)
            if sequence.passed >= _PASSES:
                return None
            passed.append(sequence)
        return None

    def remove(self, request_id: str) -> Sequence | None:
        """Take a request out; None if it does not wait."""
        for sequence in self:
            if sequence.request.id == request_id:
                group = self._groups[sequence.group]
                group.remove(sequence)
                if not group:
                    del self._groups[sequence.group]
                return sequence
        return None

    def reprice(
        self, config: EngineConfig, row_bytes: RowBytes, running: Collection[Sequence]
    ) -> None:
        """Rows cost something else from now on, those that run too.

        Raises:
            ValueError: one row of the longest context no longer fits. Nothing has changed then.
        """
        check_limit(config, row_bytes)
        self._config = config
        self._row_bytes = row_bytes
        for sequence in (*running, *self):
            sequence.reserved = self._reservation(sequence)

    def _reservation(self, sequence: Sequence) -> int:
        return self._row_bytes(sequence.longest + self._config.round_tokens)

    def _in_turn(self, running: Counter[str]) -> list[Sequence]:
        """The oldest request of each group: those that nobody may pass any more, then by turn."""
        first = [group[0] for group in self._groups.values()]
        return sorted(first, key=lambda one: (one.passed < _PASSES, running[one.group]))

    def _leave(self, sequence: Sequence) -> Sequence:
        """Take out the oldest request of a group, whose next turn comes after the others'."""
        group = self._groups.pop(sequence.group)
        group.popleft()
        if group:
            self._groups[sequence.group] = group
        return sequence


def check_limit(config: EngineConfig, row_bytes: RowBytes) -> None:
    """Refuse a memory limit under which a request of the longest context could never run.

    Raises:
        ValueError: naming the limit and what such a row takes.
    """
    needed = row_bytes(config.max_context + config.round_tokens)
    if config.memory_limit and needed > config.memory_limit:
        raise ValueError(
            f"the memory limit is {config.memory_limit} bytes, but the caches of one row of "
            f"{config.max_context} tokens take {needed}"
        )


def context_under(limit: int, row_bytes: RowBytes, wanted: int, block_size: int) -> int:
    """The longest context, ``wanted`` at most, of which one row fits ``limit`` bytes; 0: no limit.

    Raises:
        ValueError: not even the shortest context fits; naming the limit and what it takes.
    """
    if not limit:
        return wanted
    least = min(wanted, SHORTEST_CONTEXT)
    needed = row_bytes(least + block_size)
    if needed > limit:
        raise ValueError(
            f"the memory limit is {limit} bytes, but the caches of one row of {least} tokens, "
            f"the shortest context, take {needed}"
        )
    most = wanted
    while least < most:  # contexts of ``least`` fit, those above ``most`` do not
        middle = (least + most + 1) // 2
        if row_bytes(middle + block_size) <= limit:
            least = middle
        else:
            most = middle - 1
    return least
