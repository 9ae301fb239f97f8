"""The draft network's training forward: many blocks of one sequence over one clean context.

Equal to inference block by block: a block at anchor a sees target features of positions before a
and its own rows, nothing else. Knows nothing of losses or optimisers.
"""

import mlx.core as mx

from dflash_serve.adapters.dflash import Attend, DFlashDrafter, DraftAttention

KeysValues = tuple[mx.array, mx.array]


def context_keys_values(drafter: DFlashDrafter, taps: mx.array) -> list[KeysValues]:
    """[S, T, K * H] target features -> per layer the context's keys and values [S, kv, T, hd].

    Context token t sits at position t.
    """
    context = drafter.model.context(taps.astype(drafter.dtype))
    start = mx.zeros(taps.shape[0], dtype=mx.int32)
    return [layer.self_attn.keys_values(context, start) for layer in drafter.model.layers]


def block_tokens(mask_token_id: int, labels: mx.array, visible: mx.array) -> mx.array:
    """What enters the network: [S, N, B] labels, of which ``visible`` [S, N] slots are shown.

    The other slots are masks. The anchor is slot 0 of ``labels``, so at least 1 is visible.
    """
    slots = mx.arange(labels.shape[2], dtype=mx.int32)
    return mx.where(slots < visible[..., None], labels, mask_token_id)


def block_rows(
    drafter: DFlashDrafter,
    context: list[KeysValues],
    anchors: mx.array,
    tokens: mx.array,
) -> mx.array:
    """Rows [S, N, B, H] of all blocks after the final norm.

    ``anchors`` [S, N] are positions, ``tokens`` [S, N, B] what each block holds. Blocks are rows
    of a batch of S * N, so that each is rotated from its own anchor.
    """
    sequences, count, block = tokens.shape
    x = drafter.embed_block(tokens.reshape(sequences * count, block))
    positions, length = anchors.reshape(-1), context[0][0].shape[2]
    masks = {
        kind: training_mask(anchors, block, length, *kind)
        for kind in dict.fromkeys(drafter.config.layer_kinds)
    }
    for layer, keys_values, kind in zip(
        drafter.model.layers, context, drafter.config.layer_kinds, strict=True
    ):
        x = layer(x, _over_context(keys_values, positions, masks[kind]))
    return drafter.model.norm(x).reshape(sequences, count, block, -1)


def proposals(
    drafter: DFlashDrafter,
    context: list[KeysValues],
    anchors: mx.array,
    tokens: mx.array,
) -> mx.array:
    """One block per sequence: anchors [S], block tokens [S, B] -> the drafter's choice [S, B - 1].

    Slots that hold real tokens are proposed anew like all others; their reader knows them.
    """
    rows = block_rows(drafter, context, anchors[:, None], tokens[:, None])[:, 0, 1:]
    return drafter.read(rows, tokens[:, 0]).chain()


def training_mask(
    anchors: mx.array, block_size: int, length: int, window: int | None, causal: bool
) -> mx.array:
    """[S, N] anchors -> visibility [S, N, B or 1, T + B] over [context; own block].

    Context t < anchor; own rows all, or with ``causal`` up to the query; with ``window`` W also
    query - key < W. A row always sees itself, so no row is fully masked.
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


def _over_context(context: KeysValues, positions: mx.array, mask: mx.array) -> Attend:
    """Attention of blocks [S * N, B, H] over [context; own block]."""
    split = mask.shape[:2]

    def attend(attention: DraftAttention, normed: mx.array) -> mx.array:
        rows, block, _ = normed.shape
        queries = attention.queries(normed, positions).reshape(*split, attention.heads, block, -1)
        keys, values = (
            part.reshape(*split, attention.kv_heads, block, -1)
            for part in attention.keys_values(normed, positions)
        )
        out = _attend_blocks(queries, (keys, values), context, mask)
        return attention.o_proj(out.reshape(rows, block, -1))

    return attend


def _attend_blocks(
    queries: mx.array, own: KeysValues, context: KeysValues, mask: mx.array
) -> mx.array:
    """One softmax over [context; own block] per row: [S, N, heads, B, hd] -> [S, N, B, heads * hd].

    The context's keys and values [S, kv, T, hd] are shared by all blocks of a sequence and never
    repeated; a block's own are [S, N, kv, B, hd].
    """
    sequences, count, heads, block, dim = queries.shape
    kv = own[0].shape[2]
    group = heads // kv
    rows = (sequences, kv, count, group, block)
    q = (queries * dim**-0.5).reshape(sequences, count, kv, group * block, dim).swapaxes(1, 2)
    k_own, v_own = (part.swapaxes(1, 2) for part in own)  # [S, kv, N, B, hd]
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
    return out.transpose(0, 2, 4, 1, 3, 5).reshape(sequences, count, block, -1)
