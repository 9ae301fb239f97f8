"""Attention of training: many blocks of a sequence over one context. One primitive on CPUs.

The primitive skips keys that a block does not see, and keeps no scores for the way back.
"""

import mlx.core as mx

from dflash_serve.kernels.native import native

KeysValues = tuple[mx.array, mx.array]


def attend_blocks(
    queries: mx.array,
    own: KeysValues,
    context: KeysValues,
    anchors: mx.array,
    *,
    window: int | None,
    causal: bool,
) -> mx.array:
    """One softmax over [context; own block] for each of [S * N, heads, B, hd] queries.

    Returns [S * N, B, heads, hd].
    ``own`` keys and values [S * N, kv, B, hd], the context's [S, kv, T, hd]; ``anchors`` [S, N]
    int32. Context t < anchor is seen, and own rows: all, or with ``causal`` up to the query; with
    ``window`` W also query - key < W. Gradients reach all but the anchors.
    """
    scale = queries.shape[-1] ** -0.5
    module = native(queries, *own, *context)
    if module is None:
        mask = block_mask(anchors, queries.shape[2], context[0].shape[2], window, causal)
        return plain_attend_blocks(queries * scale, own, context, mask)
    return module.attend_blocks(
        queries,
        module.KeysValues(*own),
        module.KeysValues(*context),
        anchors,
        module.BlockRule(scale, causal, window or 0),
    )


def block_mask(
    anchors: mx.array, block_size: int, length: int, window: int | None, causal: bool
) -> mx.array:
    """[S, N] anchors -> visibility [S, N, B or 1, T + B] over [context; own block].

    A row always sees itself, so no row is fully masked.
    """
    slots = mx.arange(block_size, dtype=mx.int32)
    key = mx.arange(length, dtype=mx.int32)
    context = key < anchors[..., None, None]  # [S, N, 1, T]
    own = slots <= slots[:, None] if causal else mx.ones((1, block_size), mx.bool_)
    if window is not None:
        query = anchors[..., None, None] + slots[:, None]  # [S, N, B, 1]
        context = context & (query - key < window)
        own = own & (slots[:, None] - slots < window)
    rows = max(context.shape[2], own.shape[0])
    shape = (*anchors.shape, rows)
    return mx.concatenate(
        [mx.broadcast_to(context, (*shape, length)), mx.broadcast_to(own, (*shape, block_size))],
        axis=-1,
    )


def plain_attend_blocks(
    queries: mx.array, own: KeysValues, context: KeysValues, mask: mx.array
) -> mx.array:
    """The reference, of scaled queries.

    The context's keys and values are shared by all blocks of a sequence and never repeated.
    """
    sequences, count = mask.shape[:2]
    _, heads, block, dim = queries.shape
    kv = own[0].shape[1]
    group = heads // kv
    rows = (sequences, kv, count, group, block)
    q = queries.reshape(sequences, count, kv, group * block, dim).swapaxes(1, 2)
    k_own, v_own = (  # [S, kv, N, B, hd]
        part.reshape(sequences, count, kv, block, dim).swapaxes(1, 2) for part in own
    )
    k_context, v_context = context
    flat = q.reshape(sequences, kv, count * group * block, dim)
    scores = mx.concatenate(
        [
            (flat @ k_context.swapaxes(-1, -2)).reshape(*rows, -1),
            (q @ k_own.swapaxes(-1, -2)).reshape(*rows, -1),
        ],
        axis=-1,
    )  # [S, kv, N, group, B, T + B]
    scores = mx.where(mask[:, None, :, None], scores, -mx.inf)
    shares = mx.softmax(scores, axis=-1, precise=True)
    length = k_context.shape[2]
    over_context = shares[..., :length].reshape(sequences, kv, count * group * block, length)
    over_own = shares[..., length:].reshape(sequences, kv, count, group * block, block)
    out = (over_context @ v_context).reshape(*rows, dim) + (over_own @ v_own).reshape(*rows, dim)
    return out.transpose(0, 2, 4, 1, 3, 5).reshape(-1, block, heads, dim)
