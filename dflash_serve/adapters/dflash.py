"""The DFlash v1 draft network: a block of masks denoised in one pass over target features.

Follows z-lab's published checkpoints (arXiv 2602.06036); parameter names are theirs. Knows no
cache but the views it is given.
"""

from collections.abc import Callable, Sequence
from typing import Self

import mlx.core as mx
import mlx.nn as nn

from dflash_serve.adapters.base import AttentionCache, Draft, TargetAdapter
from dflash_serve.adapters.cache_spec import AttentionSpec
from dflash_serve.adapters.dflash_config import DFlashConfig
from dflash_serve.adapters.own_operations import Norm, use_own_operations
from dflash_serve.adapters.rotary import Rotary
from dflash_serve.kernels.argmax import argmax
from dflash_serve.kernels.gated_units import swiglu
from dflash_serve.kernels.rotation import HeadNorm


class DraftAttention(nn.Module):
    """Attention of block rows over [context; block]; both use the same projections."""

    def __init__(self, config: DFlashConfig, rotary: Rotary) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = dim = config.head_dim
        self.scale = dim**-0.5
        hidden = config.hidden_size
        self.q_proj = nn.Linear(hidden, self.heads * dim, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * dim, bias=False)
        self.o_proj = nn.Linear(self.heads * dim, hidden, bias=False)
        self.q_norm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self._rotary = rotary

    def _split(self, x: mx.array, heads: int) -> mx.array:
        split = x.reshape(*x.shape[:2], heads, self.head_dim)  # [R, q, heads, hd]
        return split.transpose(0, 2, 1, 3)

    def queries(self, x: mx.array, offset: mx.array) -> mx.array:
        """[R, q, H] normed block rows -> [R, heads, q, hd], rotated from each row's offset."""
        norm = HeadNorm(self.q_norm.weight, self.q_norm.eps)
        return self._rotary(self._split(self.q_proj(x), self.heads), offset, norm)

    def keys_values(self, x: mx.array, offset: mx.array) -> tuple[mx.array, mx.array]:
        """[R, q, H] context features or normed block rows -> keys, values [R, kv, q, hd]."""
        norm = HeadNorm(self.k_norm.weight, self.k_norm.eps)
        keys = self._rotary(self._split(self.k_proj(x), self.kv_heads), offset, norm)
        return keys, self._split(self.v_proj(x), self.kv_heads)

    def output(self, attended: mx.array) -> mx.array:
        """What block rows saw [R, heads, q, hd] -> [R, q, H]."""
        out = attended.transpose(0, 2, 1, 3)
        return self.o_proj(out.reshape(*out.shape[:2], -1))


class DraftMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


Attend = Callable[[DraftAttention, mx.array], mx.array]
"""(a layer's attention, normed block rows [R, q, H]) -> [R, q, H]: over a cache, or in training."""


class DraftLayer(nn.Module):
    """Pre-norm attention and MLP over block rows; context rows enter keys and values only."""

    def __init__(self, config: DFlashConfig, rotary: Rotary) -> None:
        super().__init__()
        self.self_attn = DraftAttention(config, rotary)
        self.mlp = DraftMLP(config)
        self.input_layernorm = Norm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, attend: Attend) -> mx.array:
        x = x + attend(self.self_attn, self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


def over_cache(cache: AttentionCache, causal: bool) -> Attend:
    """Attention over [cached context; block]; the block's keys and values go into the cache."""

    def attend(attention: DraftAttention, normed: mx.array) -> mx.array:
        queries = attention.queries(normed, cache.offset)
        cache.update_and_fetch(*attention.keys_values(normed, cache.offset))
        return attention.output(cache.attend(queries, attention.scale, causal=causal))

    return attend


class DFlashModel(nn.Module):
    """The stored weights: 11 tensors per layer and fc, hidden_norm, norm.

    Beside them, where the config says so, an embedding or a head of its own, and the target's
    token of each of a reduced head's logits.
    """

    layer_class: type[DraftLayer] = DraftLayer

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(
            len(config.target_layer_ids) * config.hidden_size, config.hidden_size, bias=False
        )
        self.hidden_norm = Norm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm = Norm(config.hidden_size, eps=config.rms_norm_eps)
        rotary = Rotary(
            config.head_dim, config.rope_theta, config.rope_scaling, config.max_position_embeddings
        )
        self.layers = [self.layer_class(config, rotary) for _ in range(config.num_layers)]
        if config.own_embedding:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.own_head:
            self.lm_head = nn.Linear(config.hidden_size, config.logits, bias=False)
        if config.draft_vocab_size:
            self.target_ids = mx.arange(config.draft_vocab_size, dtype=mx.int32)

    def context(self, taps: mx.array) -> mx.array:
        """[..., K * H] target features -> the context [..., H] that feeds every layer."""
        return self.hidden_norm(self.fc(taps))


class SlotDraft:
    """A `Draft` whose slots are predicted independently of each other: logits [R, q, V].

    ``target_ids`` [V]: the target's token of each logit, where they are not the same.
    """

    def __init__(self, logits: mx.array, target_ids: mx.array | None = None) -> None:
        self._logits = logits
        self._target_ids = target_ids
        self._best: tuple[mx.array, mx.array] | None = None

    def chain(self) -> mx.array:
        return as_target(argmax(self._logits), self._target_ids)

    def children(self, slot: int, before: mx.array, count: int) -> tuple[mx.array, mx.array]:
        count = min(count, self._logits.shape[-1])
        if self._best is None or self._best[0].shape[-1] < count:
            self._best = likeliest(self._logits, count)
        shape = (*before.shape, count)
        ids, scores = (mx.expand_dims(best[:, slot, :count], 1) for best in self._best)
        ids = as_target(ids, self._target_ids)
        return mx.broadcast_to(ids, shape), mx.broadcast_to(scores, shape)

    def confidences(self) -> mx.array:
        return top_probability(self._logits)


def as_target(ids: mx.array, target_ids: mx.array | None) -> mx.array:
    """Numbers of logits -> the target's tokens, int32."""
    return ids.astype(mx.int32) if target_ids is None else target_ids[ids]


def top_probability(logits: mx.array) -> mx.array:
    """Logits [..., V] -> the probability [...] float32 of the likeliest."""
    logits = logits.astype(mx.float32)
    return mx.exp(logits.max(axis=-1) - mx.logsumexp(logits, axis=-1))


def likeliest(logits: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """The ``count`` highest of logits [..., V]: ids [..., count] int32, and log-probabilities.

    The best first; fewer where the vocabulary is smaller.
    """
    count = min(count, logits.shape[-1])
    total = mx.logsumexp(logits.astype(mx.float32), axis=-1, keepdims=True)
    if count == 1:
        best = mx.argmax(logits, axis=-1, keepdims=True)
        score = mx.take_along_axis(logits, best, axis=-1).astype(mx.float32)
        return best.astype(mx.int32), score - total
    ids = mx.argpartition(-logits, count - 1, axis=-1)[..., :count]
    scores = mx.take_along_axis(logits, ids, axis=-1).astype(mx.float32)
    order = mx.argsort(-scores, axis=-1)
    ids, scores = (mx.take_along_axis(array, order, axis=-1) for array in (ids, scores))
    return ids.astype(mx.int32), scores - total


class DFlashDrafter:
    """A `DraftAdapter`: the draft network with its target's frozen embedding and head."""

    model_class: type[DFlashModel] = DFlashModel

    def __init__(self, config: DFlashConfig, model: DFlashModel, target: TargetAdapter) -> None:
        use_own_operations(model)
        self.config = config
        self.model = model
        self._target = target

    @property
    def dtype(self) -> mx.Dtype:
        dtype: mx.Dtype = self.model.norm.weight.dtype
        return dtype

    @property
    def cache_specs(self) -> tuple[AttentionSpec, ...]:
        config = self.config
        return tuple(
            AttentionSpec(config.num_key_value_heads, config.head_dim, self.dtype, window)
            for window in config.layer_windows
        )

    @property
    def block_size(self) -> int:
        return self.config.block_size

    @property
    def runtime_block_size(self) -> int:
        return self.config.runtime_block_size

    @property
    def target_layer_ids(self) -> tuple[int, ...]:
        return self.config.target_layer_ids

    def inputs(self, width: int) -> int:
        return width - self.config.shift

    @property
    def target_ids(self) -> mx.array | None:
        """The target's token of each logit [Vd] int32, where they are not the same."""
        return self.model.target_ids if self.config.draft_vocab_size else None

    def append_context(self, taps: mx.array, caches: Sequence[AttentionCache]) -> None:
        context = self.model.context(taps.astype(self.dtype))
        for layer, cache in zip(self.model.layers, caches, strict=True):
            cache.update_and_fetch(*layer.self_attn.keys_values(context, cache.offset))

    def draft(self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]) -> Draft:
        return self.read(self.block_rows(anchors, width, caches), anchors)

    def block_logits(
        self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]
    ) -> mx.array:
        """Logits [R, width - 1, V] of the slots after the anchor."""
        return self.logits(self.block_rows(anchors, width, caches))

    def block_rows(
        self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]
    ) -> mx.array:
        """Rows [R, width - 1, H] that predict the tokens after the anchor, after the final norm.

        Those of the slots after the anchor's, or with a shift the anchor's own and those before
        the last.
        """
        slots = mx.arange(self.inputs(width), dtype=mx.int32)
        tokens = mx.where(slots == 0, anchors[:, None], self.config.mask_token_id)
        x = self._through(tokens, caches)
        return self.model.norm(x[:, 1 - self.config.shift :])

    def fill(self, blocks: mx.array, caches: Sequence[AttentionCache]) -> tuple[mx.array, mx.array]:
        """As `FillingDrafter`, of which a DFlash v1 network is one if it was trained as one."""
        rows, count, width = blocks.shape
        tokens = mx.where(blocks < 0, self.config.mask_token_id, blocks).reshape(rows, -1)
        x = self._through(tokens, caches).reshape(rows * count, width, -1)
        draft = self.read(self.model.norm(x[:, 1:]), blocks[..., 0].reshape(-1))
        given = blocks[..., 1:]
        chosen, scores = draft.chain(), mx.log(draft.confidences())
        return mx.where(given < 0, chosen.reshape(given.shape), given), scores.reshape(given.shape)

    def _through(self, tokens: mx.array, caches: Sequence[AttentionCache]) -> mx.array:
        """Block tokens [R, q] -> rows [R, q, H] before the final norm."""
        x = self.embed_block(tokens)
        for layer, causal, cache in zip(
            self.model.layers, self.config.layer_causal, caches, strict=True
        ):
            x = layer(x, over_cache(cache, causal))
        return x

    def embed_block(self, tokens: mx.array) -> mx.array:
        """Token ids of a block -> the rows that enter the first layer, in the drafter's dtype."""
        own = self.config.own_embedding
        x = (self.model.embed_tokens if own else self._target.embed)(tokens).astype(self.dtype)
        scale = self.config.input_embedding_scale
        return x if scale == 1.0 else x * scale

    def with_model(self, model: DFlashModel) -> Self:
        """The same drafter with other weights."""
        return type(self)(self.config, model, self._target)

    def read(self, rows: mx.array, anchors: mx.array) -> Draft:
        """What rows [R, q, H] after the final norm predict of q tokens behind ``anchors`` [R]."""
        return SlotDraft(self.logits(rows), self.target_ids)

    def target_logits(self, rows: mx.array) -> mx.array:
        """The target's own logits [..., V] of its rows [..., H] after its final norm."""
        return self._target.logits(rows)

    def logits(self, rows: mx.array) -> mx.array:
        """Rows [..., H] after the final norm -> logits [..., V] by the target's head or its own."""
        if self.config.own_head:
            logits = self.model.lm_head(rows)
        else:  # a quantised head is slow on rows of a dtype that is not the target's
            logits = self._target.head(rows.astype(self._target.dtype))
        if self.config.output_multiplier != 1.0:
            logits = logits * self.config.output_multiplier
        cap = self.config.final_logit_softcapping
        return cap * mx.tanh(logits / cap) if cap > 0 else logits
