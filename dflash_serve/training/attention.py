"""The draft network's training forward: many blocks of one sequence over one clean context.

Equal to inference block by block: a block at anchor a sees target features of positions before a
and its own rows, nothing else. Knows nothing of losses or optimisers.
"""

import mlx.core as mx

from dflash_serve.adapters.dflash import DFlashDrafter, DraftAttention, DraftLayer

KeysValues = tuple[mx.array, mx.array]


def context_keys_values(drafter: DFlashDrafter, taps: mx.array) -> list[KeysValues]:
    """[S, T, K * H] target features -> per layer the context's keys and values [S, kv, T, hd].

    Context token t sits at position t.
    """
    context = drafter.model.context(taps.astype(drafter.layout.dtype))
    start = mx.zeros(taps.shape[0], dtype=mx.int32)
    return [layer.self_attn.keys_values(context, start) for layer in drafter.model.layers]


def block_hidden(
    drafter: DFlashDrafter,
    context: list[KeysValues],
    anchors: mx.array,
    anchor_tokens: mx.array,
    block_size: int,
) -> mx.array:
    """Rows of all blocks after the last layer: [S, N, B, H], before the final norm.

    ``anchors`` [S, N] are positions, ``anchor_tokens`` [S, N] the tokens there. Blocks are rows of
    a batch of S * N, so that each is rotated from its own anchor.
    """
    sequences, count = anchors.shape
    masks = mx.full((sequences * count, block_size - 1), drafter.config.mask_token_id, mx.int32)
    tokens = mx.concatenate([anchor_tokens.reshape(-1, 1).astype(mx.int32), masks], axis=1)
    x = drafter.embed_block(tokens)  # [S * N, B, H]
    visible: dict[tuple[int | None, bool], mx.array] = {}
    for index, (layer, keys_values) in enumerate(zip(drafter.model.layers, context, strict=True)):
        kind = drafter.config.layer_windows[index], drafter.config.layer_causal[index]
        if kind not in visible:
            length = keys_values[0].shape[2]
            visible[kind] = training_mask(anchors, block_size, length, *kind)
        x = _layer(layer, x, anchors, keys_values, visible[kind])
    return x.reshape(sequences, count, block_size, -1)


def block_logits(drafter: DFlashDrafter, hidden: mx.array) -> mx.array:
    """[S, N, B, H] -> logits [S, N, B - 1, V] of the slots after the anchor."""
    return drafter.head(hidden[:, :, 1:])


def training_mask(
    anchors: mx.array, block_size: int, length: int, window: int | None, causal: bool
) -> mx.array:
    """[S, N] anchors -> visibility [S, N, B, T + B] over [context; own block].

    Context t < anchor; own rows all, or with ``causal`` up to the query; with ``window`` W also
    query - key < W. A row always sees itself, so no row is fully masked.
    """
    slots = mx.arange(block_size, dtype=mx.int32)
    query = anchors[..., None, None] + slots[:, None]  # [S, N, B, 1]
    key = mx.arange(length, dtype=mx.int32)
    context = key < anchors[..., None, None]  # [S, N, 1, T]
    own = slots <= slots[:, None] if causal else mx.ones((block_size, block_size), mx.bool_)
    if window is not None:
        context = context & (query - key < window)
        own = own & (slots[:, None] - slots < window)
    shape = (*anchors.shape, block_size)
    return mx.concatenate(
        [mx.broadcast_to(context, (*shape, length)), mx.broadcast_to(own, (*shape, block_size))],
        axis=-1,
    )


def _layer(
    layer: DraftLayer, x: mx.array, anchors: mx.array, context: KeysValues, mask: mx.array
) -> mx.array:
    attention = layer.self_attn
    normed, offset = layer.input_layernorm(x), anchors.reshape(-1)
    queries = attention.queries(normed, offset)  # [S * N, heads, B, hd]
    own = attention.keys_values(normed, offset)  # [S * N, kv, B, hd]
    x = x + attention.o_proj(_attend(attention, queries, context, own, mask))
    updated: mx.array = x + layer.mlp(layer.post_attention_layernorm(x))
    return updated


def _attend(
    attention: DraftAttention,
    queries: mx.array,
    context: KeysValues,
    own: KeysValues,
    mask: mx.array,
) -> mx.array:
    """One softmax over [context; own block] per query row -> [S * N, B, heads * hd].

    The context's keys and values are shared by all blocks of a sequence and never repeated.
    """
    sequences, count, block, _ = mask.shape
    kv, dim = attention.kv_heads, attention.head_dim
    group = attention.heads // kv
    rows = (sequences, kv, count, group, block)

    def by_sequence(x: mx.array, inner: int) -> mx.array:
        return x.reshape(sequences, count, kv, inner, dim).swapaxes(1, 2)

    q = by_sequence(queries * dim**-0.5, group * block)  # [S, kv, N, group * B, hd]
    k_own, v_own = (by_sequence(x, block) for x in own)  # [S, kv, N, B, hd]
    k_context, v_context = context  # [S, kv, T, hd]
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
    return out.transpose(0, 2, 4, 1, 3, 5).reshape(sequences * count, block, -1)
