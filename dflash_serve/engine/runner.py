"""Runs step plans on the device: prefill chunks, and rounds of draft, verify, accept, roll back.

A round is one compiled graph and one host sync. Target and drafter caches always hold the same
number of tokens per row: the drafter's context is written from the verify pass's own taps, for
the whole block, and rejected rows of both are left behind the row's length.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.masks import causal_mask
from dflash_serve.engine.cache_pool import (
    HeldView,
    RowSpan,
    SlotCache,
    SpanShape,
    bucket,
    stored,
)
from dflash_serve.engine.plan import ContextRow, DecodeRow, PrefillRow, StepPlan, StepResult
from dflash_serve.engine.sampler import SampledRows, choose, gather
from dflash_serve.kernels.acceptance_scan import acceptance_scan


@dataclass(frozen=True, slots=True)
class _RoundKey:
    """What a traced round depends on besides array shapes."""

    shape: SpanShape
    draft: bool
    filtered: bool


class _Stopwatch:
    """Seconds spent inside its ``with`` blocks: MLX calls, as against this module's Python."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *failure: object) -> None:
        self.seconds += time.perf_counter() - self._started


class DeviceRunner:
    """A `Runner` over one target and, unless decoding is plain, one drafter.

    ``block_size`` is the usual block, to which shorter ones are padded at most. ``compiled`` off
    runs the same round op by op.
    """

    def __init__(
        self,
        target: TargetAdapter,
        drafter: DraftAdapter | None,
        block_size: int,
        *,
        compiled: bool = True,
    ) -> None:
        self._target = target
        self._drafter = drafter
        self._block_size = block_size
        self._compiled = compiled
        self._target_cache = SlotCache(target.layout)
        self._draft_cache = SlotCache(drafter.layout) if drafter else None
        self._device = _Stopwatch()
        self._rounds: dict[_RoundKey, Callable[..., Any]] = {}

    @property
    def target(self) -> TargetAdapter:
        return self._target

    @property
    def bytes_per_token(self) -> int:
        """Cache bytes that one token of one row takes."""
        drafts = self._drafter.layout.bytes_per_token if self._drafter else 0
        return self._target.layout.bytes_per_token + drafts

    def draft_with(self, drafter: DraftAdapter | None, block_size: int) -> None:
        """Draft with another drafter, or not at all, from the next step on.

        It starts with an empty context: for rows that are under way, `ContextRow`s bring it. The
        old drafter, its context and its compiled rounds are let go.
        """
        self._drafter = drafter
        self._block_size = block_size
        self._draft_cache = SlotCache(drafter.layout) if drafter else None
        self._rounds = {}
        mx.clear_cache()

    def run(self, plan: StepPlan) -> StepResult:
        device = self._device = _Stopwatch()
        self._make_room(plan)
        if plan.context:
            self._show(plan.context)
        first = self._prefill(plan.prefill) if plan.prefill else None
        packed = self._round(plan.decode) if plan.decode else None
        with device:
            mx.eval([array for array in (first, packed) if array is not None], *self._stores())
        first_tokens: list[int] = _host(first)
        committed: list[list[int]] = _host(packed)
        return StepResult(
            tuple(first_tokens),
            tuple(tuple(row[1 : 1 + row[0]]) for row in committed),
            device.seconds,
        )

    def _caches(self) -> list[SlotCache]:
        return [self._target_cache, *([self._draft_cache] if self._draft_cache else [])]

    def _stores(self) -> list[list[mx.array]]:
        return [cache.arrays for cache in self._caches()]

    def _make_room(self, plan: StepPlan) -> None:
        rows = [(row.slot, row.start + len(row.tokens)) for row in plan.prefill]
        rows += [(row.slot, row.start + len(row.tokens)) for row in plan.context]
        rows += [(row.slot, row.length + row.block) for row in plan.decode]
        slots = 1 + max(slot for slot, _ in rows)
        tokens = max(tokens for _, tokens in rows)
        for cache in self._caches():
            cache.apply(plan.moves)
            cache.reserve(slots, tokens)

    def _prefill(self, rows: Sequence[PrefillRow]) -> mx.array:
        """Run prompt chunks; the chosen next tokens [R] int32, meaningful for last chunks."""
        tokens, span = self._packed(rows)
        target, draft = self._take()
        with self._device:
            hidden, target, draft = self._forward(tokens, span, target, draft)
        self._put(target, draft)
        if not any(row.last for row in rows):
            return mx.zeros((len(rows),), dtype=mx.int32)
        final = mx.take_along_axis(hidden, (span.lengths - 1)[:, None, None], axis=1)  # [R, 1, H]
        sampled = gather([(row.sampling, row.start + len(row.tokens)) for row in rows], 1)
        return choose(self._target.logits(final), sampled)[:, 0]

    def _show(self, rows: Sequence[ContextRow]) -> None:
        """Give the drafter its context of tokens that the target's cache holds.

        The target runs over them once more against its own stored keys and values, which stay as
        they are: what it emits next cannot change.
        """
        assert self._drafter is not None  # the scheduler plans context for drafters only
        assert self._draft_cache is not None
        tokens, span = self._packed(rows)
        held = span.views(self._target_cache.arrays, HeldView)
        context = span.views(self._draft_cache.take())
        mask = causal_mask(span.offsets, span.width, span.attended)
        with self._device:
            taps = self._target.forward(tokens, mask, held, self._drafter.target_layer_ids).taps
            assert taps is not None  # a drafter taps at least one layer
            self._drafter.append_context(taps, context)
            self._draft_cache.put(stored(context))
            # evaluated now: the target's store has to be unshared when this step writes to it
            mx.eval(self._draft_cache.arrays)

    def _packed(self, rows: Sequence[PrefillRow | ContextRow]) -> tuple[mx.array, RowSpan]:
        """Tokens [R, width] of neighbouring rows, padded, and where they stand."""
        width = max(len(row.tokens) for row in rows)
        tokens = np.zeros((len(rows), width), dtype=np.int32)
        for index, row in enumerate(rows):
            tokens[index, : len(row.tokens)] = row.tokens
        attended = bucket(max(row.start + len(row.tokens) for row in rows))
        span = RowSpan(
            rows[0].slot,
            mx.array([row.start for row in rows], dtype=mx.int32),
            mx.array([len(row.tokens) for row in rows], dtype=mx.int32),
            SpanShape(width, attended, self._target_cache.trash),
        )
        return mx.array(tokens), span

    def _take(self) -> tuple[list[mx.array], list[mx.array]]:
        return self._target_cache.take(), self._draft_cache.take() if self._draft_cache else []

    def _put(self, target: list[mx.array], draft: list[mx.array]) -> None:
        self._target_cache.put(target)
        if self._draft_cache:
            self._draft_cache.put(draft)

    def _forward(
        self, tokens: mx.array, span: RowSpan, target: list[mx.array], draft: list[mx.array]
    ) -> tuple[mx.array, list[mx.array], list[mx.array]]:
        """Target forward over [R, width] tokens, its taps into the drafter's context.

        Returns hidden [R, width, H] and both stores' arrays.
        """
        views = span.views(target)
        taps = self._drafter.target_layer_ids if self._drafter else ()
        mask = causal_mask(span.offsets, span.width, span.attended)
        captured = self._target.forward(tokens, mask, views, taps)
        if self._drafter and captured.taps is not None:
            context = span.views(draft)
            self._drafter.append_context(captured.taps, context)
            draft = stored(context)
        return captured.hidden, stored(views), draft

    def _round(self, rows: Sequence[DecodeRow]) -> mx.array:
        """Draft, verify and accept for all rows; packed [R, width + 1] as `acceptance_scan`'s."""
        width = self._padded_width(max(row.block for row in rows))
        attended = bucket(max(row.length + row.block for row in rows))
        sampled = gather([(row.sampling, row.length + 1) for row in rows], width)
        key = _RoundKey(
            SpanShape(width, attended, self._target_cache.trash),
            self._drafter is not None and width > 1,
            sampled is not None and sampled.filtered,
        )
        meta = mx.array([[row.anchor, row.length, row.block] for row in rows], dtype=mx.int32)
        chosen = [] if sampled is None else [sampled.index, sampled.settings, sampled.keys]
        with self._device:
            packed, target, draft = self._traced(key)(meta, chosen, *self._take())
        self._put(target, draft)
        result: mx.array = packed
        return result

    def _traced(self, key: _RoundKey) -> Callable[..., Any]:
        if key not in self._rounds:

            def traced(
                meta: mx.array,
                chosen: list[mx.array],
                target: list[mx.array],
                draft: list[mx.array],
            ) -> tuple[mx.array, list[mx.array], list[mx.array]]:
                return self._trace_round(key, meta, chosen, target, draft)

            self._rounds[key] = mx.compile(traced) if self._compiled else traced
        return self._rounds[key]

    def _trace_round(
        self,
        key: _RoundKey,
        meta: mx.array,
        chosen: list[mx.array],
        target: list[mx.array],
        draft: list[mx.array],
    ) -> tuple[mx.array, list[mx.array], list[mx.array]]:
        """The round as a pure function: cache arrays in, cache arrays out."""
        anchors, offsets, blocks = meta[:, 0], meta[:, 1], meta[:, 2]
        span = RowSpan(0, offsets, blocks, key.shape)
        tokens = anchors[:, None]
        drafts = mx.zeros((anchors.shape[0], 0), dtype=mx.int32)
        if key.draft and self._drafter:
            views = span.views(draft)
            drafts = self._drafter.propose(anchors, blocks, span.width, views)
            draft = stored(views)
            tokens = mx.concatenate([tokens, drafts], axis=1)
        hidden, target, draft = self._forward(tokens, span, target, draft)
        sampled = None
        if chosen:
            index, settings, keys = chosen
            sampled = SampledRows(index, settings, keys, key.filtered)
        choices = choose(self._target.logits(hidden), sampled)
        return acceptance_scan(drafts, choices, blocks), target, draft

    def _padded_width(self, block: int) -> int:
        """Round up to a power of two or the full block: few shapes to trace."""
        power: int = 1 << (block - 1).bit_length()
        return min(power, self._block_size) if block <= self._block_size else power


def _host(array: mx.array | None) -> Any:
    """An evaluated array as nested lists; nothing as an empty one."""
    return [] if array is None else array.tolist()
