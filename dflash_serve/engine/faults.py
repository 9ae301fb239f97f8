"""When failed steps mean that the engine has to end. Pure Python; the clock is given."""

from collections import deque
from collections.abc import Callable

_STEPS = 3
_WITHIN = 60.0
_OUT_OF_MEMORY = 2
_MEMORY_WORDS = ("bad_alloc", "malloc", "out of memory", "outofmemory", "insufficient memory")


class Faults:
    """Counts failed steps: the third within a minute and the second for memory are fatal."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed: deque[float] = deque(maxlen=_STEPS)
        self._out_of_memory = 0

    def fatal(self, error: Exception) -> str | None:
        """Count a step that raised ``error``: why the engine cannot go on, None if it can."""
        now = self._clock()
        self._failed.append(now)
        self._out_of_memory += is_out_of_memory(error)
        if self._out_of_memory == _OUT_OF_MEMORY:
            return "the device ran out of memory for the second time"
        if len(self._failed) == _STEPS and now - self._failed[0] <= _WITHIN:
            return f"{_STEPS} steps failed within {_WITHIN:.0f} seconds"
        return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory did not suffice. MLX says so with a RuntimeError and the back-end's words."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _MEMORY_WORDS)
