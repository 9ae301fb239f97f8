"""Attention of one row over its own keys and values: MLX's kernel, or few plain operations on CPUs.

MLX's CPU back-end runs ``scaled_dot_product_attention`` as a dozen operations, most of them to
spread the query heads over shared keys. Query heads folded into the columns take five.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx

from dflash_serve.kernels.dispatch import Backend, default_backend


class Line(NamedTuple):
    """One row's forward over a tree of q columns, whose keys lie behind each other as they come.

    Sums of floating-point numbers depend on their order. Here a column's scores are brought into
    the order of positions before their softmax, so that each path gets the bits of a plain text.

    places [1, q] int32: where the columns' keys lie. columns, depths [1, folded, q] int32: for each
    query the column at each depth of its path, and the depth of each column; sees [1, folded, q]
    bool. ``folded``: heads that share a key times q, as in `prepared_mask`.
    """

    places: mx.array
    columns: mx.array
    depths: mx.array
    sees: mx.array

    def in_order(self, scores: mx.array) -> mx.array:
        """Scores [1, kv_heads, folded, n] by place -> by position; void beyond a query's own."""
        return self._moved(scores, lambda tail: _picked(tail, self.columns))

    def by_place(self, weights: mx.array) -> mx.array:
        """Weights [1, kv_heads, folded, n] by position -> by place, 0 where nothing is seen."""
        sees = self.sees[:, None]
        return self._moved(weights, lambda tail: mx.where(sees, _picked(tail, self.depths), 0))

    def _moved(self, array: mx.array, change: Callable[[mx.array], mx.array]) -> mx.array:
        tail = change(mx.take(array, self.places[0], axis=3))
        return mx.put_along_axis(array, mx.broadcast_to(self.places[0], tail.shape), tail, axis=3)


def _picked(tail: mx.array, index: mx.array) -> mx.array:
    """[1, kv_heads, folded, q] by [1, folded, q] along the last axis."""
    return mx.take_along_axis(tail, mx.broadcast_to(index[:, None], tail.shape), axis=3)


def orders_keys() -> bool:
    """Whether `attend` wants a `Line` for a tree: on CPUs, where texts are exact to the bit."""
    return default_backend() is Backend.PLAIN


def prepared_queries(queries: mx.array, kv_heads: int) -> mx.array:
    """Queries [R, heads, q, d] of all rows in the form whose rows `attend` takes."""
    if default_backend() is not Backend.PLAIN:
        return queries
    rows, _, _, dim = queries.shape
    return queries.reshape(rows, kv_heads, -1, dim)  # heads that share keys fold into q


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
    scale: float,
    sinks: mx.array | None = None,
    line: Line | None = None,
) -> mx.array:
    """One row of `prepared_queries` over keys and values [1, kv_heads, n, d], in the same form.

    ``mask``: that row of `prepared_mask`, by position where there is a ``line`` and otherwise by
    place; every query sees a key. ``sinks`` [heads]: a score per head that takes part in the sum
    and has no value (gpt-oss).
    """
    if default_backend() is not Backend.PLAIN:
        return mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=scale, mask=mask, sinks=sinks
        )
    scores = (queries * scale) @ keys.swapaxes(-1, -2)
    if line is not None:
        scores = line.in_order(scores)
    weights = _weights(scores + mask, sinks)
    if line is not None:
        weights = line.by_place(weights)
    return weights @ values


def _weights(scores: mx.array, sinks: mx.array | None) -> mx.array:
    """Softmax over [1, kv_heads, folded, n], with the sinks' share left out."""
    if sinks is None:
        return mx.softmax(scores, axis=-1, precise=True)
    _, kv_heads, folded, _ = scores.shape
    per_head = sinks.reshape(kv_heads, -1)
    sink = mx.repeat(per_head, folded // per_head.shape[1], axis=1)[None, :, :, None]
    both = mx.concatenate([sink.astype(scores.dtype), scores], axis=-1)  # in MLX's order
    return mx.softmax(both, axis=-1, precise=True)[..., 1:]


def attended(rows: Sequence[mx.array], heads: int) -> mx.array:
    """Outputs of `attend`, one row each -> [R, heads, q, d].

    MLX's kernels for more than a few columns leave them in the order of columns, in which the
    modules read them next: joined so, no order is changed twice.
    """
    if default_backend() is not Backend.PLAIN:
        if len(rows) == 1:
            return rows[0]
        return mx.concatenate([row.swapaxes(1, 2) for row in rows]).swapaxes(1, 2)
    joined = rows[0] if len(rows) == 1 else mx.concatenate(list(rows))
    return joined.reshape(len(rows), heads, -1, joined.shape[-1])
