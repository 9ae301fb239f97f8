"""The draft network's training forward: many blocks of one sequence over one clean context.

Equal to inference block by block: a block at anchor a sees target features of positions before a
and its own rows, nothing else. Knows nothing of losses or optimisers.
"""

import mlx.core as mx

from dflash_serve.adapters.dflash import Attend, DFlashDrafter, DraftAttention
from dflash_serve.kernels.block_attention import KeysValues, attend_blocks


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
    positions = anchors.reshape(-1)  # one array, for which a rotation computes its tables once
    for layer, keys_values, (window, causal) in zip(
        drafter.model.layers, context, drafter.config.layer_kinds, strict=True
    ):
        x = layer(x, _over_context(keys_values, anchors, positions, window, causal))
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


def _over_context(
    context: KeysValues,
    anchors: mx.array,
    positions: mx.array,
    window: int | None,
    causal: bool,
) -> Attend:
    """Attention of blocks [S * N, B, H] over [context; own block]; ``positions``: the anchors."""

    def attend(attention: DraftAttention, normed: mx.array) -> mx.array:
        queries = attention.queries(normed, positions)
        own = attention.keys_values(normed, positions)
        seen = attend_blocks(queries, own, context, anchors, window=window, causal=causal)
        return attention.o_proj(seen.reshape(*normed.shape[:2], -1))

    return attend
