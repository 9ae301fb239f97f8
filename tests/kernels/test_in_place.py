"""What MLX writes in place: rows' keys, and a tree's accepted path one evaluation later.

No kernel writes a cache: both of MLX's back ends give each result of a hand-written kernel a new
buffer, so that one would copy the whole cache to add a token. MLX's own updates write into an array
that nothing else holds, on condition that nothing reads it earlier in the same evaluation: a tree's
path, known only after attention, is therefore moved by the next evaluation, out of the keys that
the forward made and not out of the cache.
"""

from collections.abc import Callable

import mlx.core as mx
import pytest

HEADS, DIM, PLACES, NEW = 2, 64, 16_384, 8
Update = Callable[[mx.array, mx.array, mx.array], mx.array]


def write(cache: mx.array, new: mx.array, start: mx.array) -> mx.array:
    return mx.slice_update(cache, new, start, (2,))


def write_ring(cache: mx.array, new: mx.array, start: mx.array) -> mx.array:
    places = ((start + mx.arange(NEW, dtype=mx.int32)) % PLACES)[:, None]
    return mx.put_along_axis(cache, mx.broadcast_to(places, new.shape), new, axis=2)


def move_path_and_write(cache: mx.array, new: mx.array, start: mx.array) -> mx.array:
    """The last forward's keys are ``new`` too; three of its columns were accepted."""
    path = mx.array([0, 2, 5], dtype=mx.int32)[None, None, :, None]
    cache = write(cache, mx.take_along_axis(new, path, axis=2), start)
    return write(cache, new, start + 3)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("update", [write, write_ring, move_path_and_write])
def test_keys_are_written_and_then_attended_without_a_copy(update: Update, traced: bool) -> None:
    def forward(
        cache: mx.array, new: mx.array, start: mx.array, queries: mx.array
    ) -> tuple[mx.array, mx.array]:
        cache = update(cache, new, start)
        return cache, mx.softmax(queries @ cache.swapaxes(-1, -2), axis=-1)

    run = mx.compile(forward) if traced else forward
    cache = mx.zeros((1, HEADS, PLACES, DIM))
    new = mx.random.normal((1, HEADS, NEW, DIM))
    queries, start = new[:, :, :1] * 0.1, mx.array([100], dtype=mx.int32)
    mx.eval(cache, new, queries, start)
    for _ in range(3):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        cache, scores = run(cache, new, start, queries)
        mx.eval(cache, scores)
        assert mx.get_peak_memory() - before < cache.nbytes / 4


def test_the_moved_path_is_the_accepted_columns() -> None:
    cache = mx.zeros((1, HEADS, PLACES, DIM))
    new = mx.random.normal((1, HEADS, NEW, DIM))
    found = move_path_and_write(cache, new, mx.array([10], dtype=mx.int32))
    assert mx.array_equal(found[:, :, 10:13], new[:, :, mx.array([0, 2, 5])])
    assert mx.array_equal(found[:, :, 13 : 13 + NEW], new)
    assert not found[:, :, 13 + NEW :].any()
