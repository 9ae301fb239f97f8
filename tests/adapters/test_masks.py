"""Masks against their definition, key by key."""

from itertools import product

import mlx.core as mx
import pytest

from dflash_serve.adapters.masks import block_mask, causal_mask

OFFSETS, BLOCKS, QUERIES, KEYS = [0, 3, 9], [4, 1, 2], 4, 14


@pytest.mark.parametrize("window", [None, 1, 3, 20])
def test_a_causal_mask_shows_the_past_within_the_window(window: int | None) -> None:
    mask = causal_mask(mx.array(OFFSETS, dtype=mx.int32), QUERIES, KEYS, window)
    assert mask.shape == (3, 1, QUERIES, KEYS)
    for row, query, key in product(range(3), range(QUERIES), range(KEYS)):
        position = OFFSETS[row] + query
        seen = key <= position and (window is None or position - key < window)
        assert mask[row, 0, query, key].item() is seen, (row, query, key)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 5, 20])
def test_a_block_mask_shows_context_and_block_to_the_blocks_rows(
    window: int | None, causal: bool
) -> None:
    mask = block_mask(
        mx.array(OFFSETS, dtype=mx.int32),
        mx.array(BLOCKS, dtype=mx.int32),
        QUERIES,
        KEYS,
        window=window,
        causal=causal,
    )
    assert mask.shape == (3, 1, QUERIES, KEYS)
    for row, query, key in product(range(3), range(QUERIES), range(KEYS)):
        if query >= BLOCKS[row]:
            continue  # padding: nobody reads what it sees
        position, end = OFFSETS[row] + query, OFFSETS[row] + BLOCKS[row]
        seen = key <= position if causal else key < end
        seen = seen and (window is None or position - key < window)
        assert mask[row, 0, query, key].item() is seen, (row, query, key)
