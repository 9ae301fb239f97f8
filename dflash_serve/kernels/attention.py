"""Attention of one row over its own keys and values: MLX's kernel, or few plain operations on CPUs.

MLX's CPU back-end runs ``scaled_dot_product_attention`` as a dozen operations, most of them to
spread the query heads over shared keys. Query heads folded into the columns take five.
"""

import mlx.core as mx

from dflash_serve.kernels.dispatch import Backend, default_backend


def prepared_queries(queries: mx.array, scale: float, kv_heads: int) -> mx.array:
    """Queries [R, heads, q, d] of all rows in the form whose rows `attend` takes."""
    if default_backend() is not Backend.PLAIN:
        return queries * scale
    rows, _, _, dim = queries.shape
    return (queries * scale).reshape(rows, kv_heads, -1, dim)  # heads that share keys fold into q


def prepared_mask(visible: mx.array, heads_per_key: int, dtype: mx.Dtype) -> mx.array:
    """``visible`` bool [R, q, n], which keys each query sees, in the form that `attend` takes."""
    if default_backend() is not Backend.PLAIN:
        return visible[:, None]
    hidden = mx.where(visible, 0.0, -mx.inf).astype(dtype)
    return mx.tile(hidden, (1, heads_per_key, 1))[:, None]  # [R, 1, heads_per_key * q, n]


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    mask: mx.array,
    sinks: mx.array | None = None,
) -> mx.array:
    """One row of `prepared_queries` over keys and values [1, kv_heads, n, d], in the same form.

    ``mask``: that row of `prepared_mask`; every query sees a key. ``sinks`` [heads]: a score per
    head that takes part in the sum and has no value (gpt-oss).
    """
    if default_backend() is not Backend.PLAIN:
        return mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=1.0, mask=mask, sinks=sinks
        )
    scores = queries @ keys.swapaxes(-1, -2) + mask
    if sinks is None:
        return mx.softmax(scores, axis=-1, precise=True) @ values
    _, kv_heads, folded, _ = scores.shape
    per_head = sinks.reshape(kv_heads, -1)
    sink = mx.repeat(per_head, folded // per_head.shape[1], axis=1)[None, :, :, None]
    both = mx.concatenate([sink.astype(scores.dtype), scores], axis=-1)  # in MLX's order
    return mx.softmax(both, axis=-1, precise=True)[..., 1:] @ values


def attended(rows: mx.array, heads: int) -> mx.array:
    """Outputs of `attend` for all rows -> [R, heads, q, d]."""
    count, _, _, dim = rows.shape
    return rows.reshape(count, heads, -1, dim)
