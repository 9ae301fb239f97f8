"""Boolean attention masks from per-row lengths. True means visible.

Key j of a row's cache sits at position j; query i of a forward sits at offset + i.
"""

import mlx.core as mx


def _positions(offsets: mx.array, queries: int, keys: int) -> tuple[mx.array, mx.array]:
    query = offsets[:, None, None, None] + mx.arange(queries, dtype=mx.int32)[:, None]
    return query, mx.arange(keys, dtype=mx.int32)  # [R, 1, q, 1], [n]


def causal_mask(offsets: mx.array, queries: int, keys: int, window: int | None = None) -> mx.array:
    """[R] offsets -> [R, 1, q, n]: key j <= query; with ``window`` W also query - j < W."""
    query, key = _positions(offsets, queries, keys)
    visible = key <= query
    return visible if window is None else visible & (query - key < window)


def block_mask(
    offsets: mx.array,
    block_lengths: mx.array,
    queries: int,
    keys: int,
    *,
    window: int | None = None,
    causal: bool = False,
) -> mx.array:
    """[R] offsets and block lengths -> [R, 1, q, n] for a drafter's block at each row's offset.

    Visible are the context (j < offset) and the block's existing rows (offset <= j < offset +
    block length): all of them, or with ``causal`` those up to the query. ``window`` W adds
    query - j < W.
    """
    query, key = _positions(offsets, queries, keys)
    if causal:
        # Slots beyond the row's block see at least themselves, so no row is fully masked.
        visible = key <= query
    else:
        visible = key < (offsets + block_lengths)[:, None, None, None]
        visible = mx.broadcast_to(visible, (offsets.shape[0], 1, queries, keys))
    return visible if window is None else visible & (query - key < window)
