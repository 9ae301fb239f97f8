"""Who sees whom in a forward over ragged rows, by brute force."""

import itertools

import mlx.core as mx
import pytest

from dflash_serve.engine.cache.span import Keys, Span, each

WIDTH = 4
OFFSETS = (0, 3, 9, 17)
LENGTHS = (4, 1, 3, 4)


def span() -> Span:
    offsets, lengths = (mx.array(values, dtype=mx.int32) for values in (OFFSETS, LENGTHS))
    return Span(offsets, lengths, WIDTH, (WIDTH,) * 4)


def seen(row: int, keys: Keys, causal: bool) -> list[list[bool]]:
    mask = span().mask(row, 0, WIDTH, keys, causal)
    assert mask.shape == (1, 1, WIDTH, keys.capacity)
    rows: list[list[bool]] = mask[0, 0].tolist()  # type: ignore[assignment]
    return rows


def position(place: int, newest: int, keys: Keys) -> int:
    """The position that a place holds once positions up to ``newest`` have been written."""
    if not keys.wraps:
        return place
    held = [p for p in range(newest + 1) if p % keys.capacity == place]
    return held[-1] if held else -1


@pytest.mark.parametrize("window", [None, 2, 5])
@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_a_token_sees_what_stands_before_it(window: int | None, wraps: bool, causal: bool) -> None:
    keys = Keys(12 if wraps else 24, window, wraps)
    for row, (offset, length) in enumerate(zip(OFFSETS, LENGTHS, strict=True)):
        found = seen(row, keys, causal)
        for query, place in itertools.product(range(WIDTH), range(keys.capacity)):
            at, own = position(place, offset + WIDTH - 1, keys), offset + query
            last = own if causal else offset + length - 1
            near = window is None or own - at < window
            assert found[query][place] == (0 <= at <= last and near), (row, query, place)


def test_layers_of_one_kind_share_a_mask() -> None:
    one = span()
    keys = Keys(24, 5)
    assert one.mask(1, 0, 4, keys, True) is one.mask(1, 0, 4, Keys(24, 5), True)
    assert one.mask(1, 0, 4, keys, True) is not one.mask(1, 0, 4, Keys(24), True)


def test_each_row_is_one_array() -> None:
    rows = mx.arange(6).reshape(3, 2)
    assert [row.tolist() for row in each(rows)] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [row.tolist() for row in each(rows[:1])] == [[[0, 1]]]
    assert span().exists.tolist() == [
        [True] * length + [False] * (WIDTH - length) for length in LENGTHS
    ]
