"""Which failed steps the engine goes on after."""

import pytest

from dflash_serve.engine.faults import Faults, is_out_of_memory

STEP = ValueError("shapes (3, 4) and (5, 6)")
MEMORY = RuntimeError("[malloc] Unable to allocate 1024 bytes.")


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("steps", "reasons"),
    [
        ([(0, STEP), (1, STEP), (60, STEP)], [None, None, "3 steps failed within 60 seconds"]),
        ([(0, STEP), (1, STEP), (61, STEP)], [None, None, None]),
        (
            [(0, STEP), (50, STEP), (61, STEP), (100, STEP)],
            [None, None, None, "3 steps failed within 60 seconds"],
        ),
        ([(0, STEP), (59, STEP), (118, STEP), (177, STEP)], [None] * 4),
        (
            [(0, MEMORY), (86_400, MEMORY)],
            [None, "the device ran out of memory for the second time"],
        ),
        ([(0, MEMORY), (70, STEP), (140, STEP)], [None] * 3),
    ],
)
def test_the_third_within_a_minute_and_the_second_for_memory_are_fatal(
    steps: list[tuple[float, Exception]], reasons: list[str | None]
) -> None:
    clock = Clock()
    faults = Faults(clock)
    start, found = clock.now, []
    for after, error in steps:
        clock.now = start + after
        found.append(faults.fatal(error))
    assert found == reasons


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MEMORY, True),
        (MemoryError("std::bad_alloc"), True),
        (RuntimeError("std::bad_alloc"), True),
        (
            RuntimeError("[metal::malloc] Attempting to allocate 8 bytes which is"),
            True,
        ),
        (
            RuntimeError(
                "[METAL] Command buffer execution failed: Insufficient Memory "
                "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
            ),
            True,
        ),
        (RuntimeError("cudaMallocAsync(&ptr, n, stream) failed: out of memory"), True),
        (RuntimeError("[matmul] Last dimension of first input"), False),
        (ValueError("[malloc] is a word of a user's text"), False),
    ],
)
def test_memory_that_ran_out_is_known_by_type_and_words(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) is memory
