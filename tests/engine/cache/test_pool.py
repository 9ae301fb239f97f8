"""Rows of all models: they grow, leave, are handed out and taken in at their own cost."""

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.cache_spec import AttentionSpec, StateArray, StateSpec
from dflash_serve.engine.cache.pool import DRAFTER, TARGET, CachePool

WIDE = AttentionSpec(4, 64, mx.float32)
STATE = StateSpec((StateArray((4, 4), mx.float32),))


def pool() -> CachePool:
    return CachePool({TARGET: [WIDE] * 6 + [STATE], DRAFTER: [WIDE]})


def test_a_row_takes_what_was_said_in_advance_growth_included() -> None:
    made = pool()
    mx.clear_cache()
    for tokens in (1, 64, 65, 300, 301, 2000, 9000):
        before = mx.get_active_memory() - made.nbytes
        mx.reset_peak_memory()
        made.reserve(7, tokens)
        assert mx.get_active_memory() - before == made.nbytes
        assert mx.get_peak_memory() - before <= made.bytes_for(tokens)
    assert made.nbytes > 0.8 * made.bytes_for(9000)


def test_a_leave_frees_its_row_and_touches_no_other() -> None:
    made = pool()
    for row, tokens in enumerate((100, 4000, 200)):
        made.reserve(row, tokens)
    kept = made.bytes_for(100) + made.bytes_for(200)
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    made.free([1, 99])
    assert mx.get_peak_memory() <= held  # nothing was copied
    assert (len(made), 1 in made, 2 in made) == (2, False, True)
    assert made.nbytes <= kept
    assert held - mx.get_active_memory() == 7 * 2 * 4 * 64 * 4 * 4096 + 4 * 16


def test_a_long_row_costs_short_ones_nothing() -> None:
    made = pool()
    for row in range(7):
        made.reserve(row, 200)
    short = made.nbytes
    made.reserve(7, 16_000)
    assert made.nbytes - short == 7 * 2 * 4 * 64 * 4 * 16_384 + 4 * 16


def test_a_row_is_handed_out_and_taken_in_as_it_is() -> None:
    made = pool()
    made.reserve(3, 100)
    caches = made.take([3])
    caches[TARGET][0][2][0] = mx.random.normal(caches[TARGET][0][2][0].shape)
    expected = np.array(caches[TARGET][0][2][0])
    made.put([3], caches)
    row = made.hand_out(3)
    assert 3 not in made
    assert row.nbytes == sum(array.nbytes for array in caches[TARGET][0][0]) * 7 + 4 * 16
    other = pool()
    other.take_in(8, row)
    other.reserve(8, 500)
    found = other.take([8])[TARGET][0][2][0]
    assert np.array_equal(np.array(found)[:, :, :128], expected)
    assert other.capacity(8) == 512


def test_a_row_shrinks_to_what_it_holds() -> None:
    made = pool()
    made.reserve(0, 5000)
    made.shrink(0, 90)
    assert made.capacity(0) == 128
    fresh = pool()
    fresh.reserve(0, 90)
    assert made.nbytes == fresh.nbytes


def test_another_drafter_begins_with_room_in_every_row() -> None:
    made = pool()
    for row in (1, 2):
        made.reserve(row, 100)
    narrow = AttentionSpec(1, 16, mx.float32)
    made.replace(DRAFTER, [narrow, narrow])
    caches = made.take([1, 2])
    assert [[len(layers) for layers in caches[name]] for name in (TARGET, DRAFTER)] == [
        [7, 7],
        [2, 2],
    ]
    assert caches[DRAFTER][0][0][0].shape == (1, 1, 128, 16)
    made.put([1, 2], caches)
    made.replace(DRAFTER, None)
    assert set(made.take([1])) == {TARGET}


def test_rows_come_in_the_order_asked_for() -> None:
    made = pool()
    for row, tokens in ((4, 10), (9, 900)):
        made.reserve(row, tokens)
    caches = made.take([9, 4])
    assert [row[0][0].shape[2] for row in caches[TARGET]] == [made.capacity(9), made.capacity(4)]
    made.put([9, 4], caches)
    with pytest.raises(KeyError):
        made.capacity(5)
