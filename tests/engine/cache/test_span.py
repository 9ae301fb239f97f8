"""Who sees whom in a forward over ragged rows, by brute force."""

import itertools

import mlx.core as mx
import pytest

from dflash_serve.engine.cache.span import Keys, Question, Span, each

WIDTH = 4
OFFSETS = (0, 3, 9, 17)
LENGTHS = (4, 1, 3, 4)


def span() -> Span:
    offsets, lengths = (mx.array(values, dtype=mx.int32) for values in (OFFSETS, LENGTHS))
    return Span(offsets, lengths, WIDTH, (WIDTH,) * 4)


def seen(row: int, keys: Keys, causal: bool) -> list[list[bool]]:
    mask = span().visible([row], 0, WIDTH, keys, causal)
    assert mask.shape == (1, WIDTH, keys.capacity)
    rows: list[list[bool]] = mask[0].tolist()  # type: ignore[assignment]
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


def test_layers_of_one_kind_share_their_masks() -> None:
    one = span()
    keys, question = [Keys(24, 5)] * 4, Question(True, 2, mx.float32)
    masks = one.masks(keys, question)
    assert one.masks([Keys(24, 5)] * 4, Question(True, 2, mx.float32)) is masks
    assert one.masks([Keys(24)] * 4, question) is not masks


def test_each_row_gets_the_mask_of_its_own_keys() -> None:
    one = span()
    keys = [Keys(24), Keys(32), Keys(24), Keys(12, 5, wraps=True)]
    question = Question(True, 2, mx.float32)
    for row, mask in enumerate(one.masks(keys, question)):
        alone = one.mask(row, 0, WIDTH, keys[row], question)
        assert mask.shape == (1, 1, 2 * WIDTH, keys[row].capacity)
        assert mask.tolist() == alone.tolist()


def test_each_row_is_one_array() -> None:
    rows = mx.arange(6).reshape(3, 2)
    assert [row.tolist() for row in each(rows)] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [row.tolist() for row in each(rows[:1])] == [[[0, 1]]]
    assert span().exists.tolist() == [
        [True] * length + [False] * (WIDTH - length) for length in LENGTHS
    ]
