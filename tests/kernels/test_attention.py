"""Plain attention of one row against MLX's own function."""

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.kernels.attention import attend, attended, prepared_mask, prepared_queries

DIM, KEYS = 16, 192


def draw(*shape: int, seed: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def seen(columns: int, held: int) -> mx.array:
    return (mx.arange(KEYS) <= held + mx.arange(columns)[:, None])[None]


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("columns", [1, 5])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_it_is_mlx_own_attention(heads: int, kv_heads: int, columns: int, with_sinks: bool) -> None:
    queries = draw(1, heads, columns, DIM, seed=1)
    keys, values = draw(1, kv_heads, KEYS, DIM, seed=2), draw(1, kv_heads, KEYS, DIM, seed=3)
    visible = seen(columns, 100)
    sinks = draw(heads, seed=4) if with_sinks else None
    mask = prepared_mask(visible, heads // kv_heads, mx.float32)
    prepared = prepared_queries(queries, kv_heads)
    found = attended([attend(prepared, keys, values, mask, 0.25, sinks)], heads)
    expected = mx.fast.scaled_dot_product_attention(
        queries, keys, values, scale=0.25, mask=visible[:, None], sinks=sinks
    )
    assert found.shape == queries.shape
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=2e-6)


def test_keys_behind_the_end_change_no_bit() -> None:
    queries = prepared_queries(draw(1, 4, 3, DIM, seed=1), 2)
    keys, values = draw(1, 2, KEYS, DIM, seed=2), draw(1, 2, KEYS, DIM, seed=3)

    def over(room: int) -> np.ndarray:
        mask = prepared_mask(seen(3, 60)[:, :, :room], 2, mx.float32)
        return np.array(attend(queries, keys[:, :, :room], values[:, :, :room], mask, 0.25))

    assert np.array_equal(over(64), over(KEYS))
    assert np.array_equal(over(128), over(KEYS))
