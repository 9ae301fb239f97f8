"""Runs step plans on the device: prefill chunks, and rounds of draft, verify, accept, roll back.

A round is one compiled graph and one host sync, two where a row's masks depend on its draft.
Target and drafter caches always hold the same number of tokens per row: the drafter's context is
written from the verify pass's own taps, for the whole block, and rejected rows of both are left
behind the row's length.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from dflash_serve.engine.choice import ChoiceRow, RowGroup, choose, group_rows
from dflash_serve.engine.constraint import ConstraintError, Walk
from dflash_serve.engine.plan import (
    Chosen,
    ContextRow,
    DecodeRow,
    PrefillRow,
    StepPlan,
    StepResult,
)
from dflash_serve.engine.rounds import Proposal, RoundRows, Rounds, RoundShape, Stores, Verdict
from dflash_serve.engine.row_logprobs import WantedLogprobs, chosen_logprobs, prompt_logprobs
from dflash_serve.engine.row_state import RowStates
from dflash_serve.engine.types import SamplingParams, TokenLogprob


class _Stopwatch:
    """Seconds spent inside its ``with`` blocks: MLX calls, as against this module's Python."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *failure: object) -> None:
        self.seconds += time.perf_counter() - self._started


@dataclass(frozen=True, slots=True)
class _Pending:
    """Choices that are not computed yet, for rows in order.

    ``verdict`` is lazy. ``walks``: how far each constrained row's draft went, or why it fails.
    ``prompts``: log-probabilities of the chunks of prefill rows, empty where nobody asked.
    """

    rows: Sequence[PrefillRow | DecodeRow]
    verdict: Verdict
    walks: Sequence[Walk | str | None]
    prompts: Sequence[tuple[TokenLogprob, ...]] = ()

    @property
    def lazy(self) -> list[mx.array]:
        return [array for array in self.verdict if array is not None]


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
        self._rounds = Rounds(target, drafter, compiled)
        self._states = RowStates(target.vocab_size)
        self._device = _Stopwatch()

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
        self._rounds.close()
        self._rounds = Rounds(self._target, drafter, self._compiled)
        mx.clear_cache()

    def close(self) -> None:
        """Let go of graphs and caches; MLX aborts the process if that is left to its exit."""
        self._rounds.close()
        self._target_cache = SlotCache(self._target.layout)
        self._draft_cache = None
        mx.clear_cache()

    def run(self, plan: StepPlan) -> StepResult:
        self._device = _Stopwatch()
        self._states.update(plan.closed, plan.opened)
        self._make_room(plan)
        if plan.context:
            self._show(plan.context)
        prefill = self._prefill(plan.prefill) if plan.prefill else None
        decode = self._round(plan.decode) if plan.decode else None
        begun = [pending for pending in (prefill, decode) if pending is not None]
        with self._device:
            mx.eval([pending.lazy for pending in begun], self._stores())
        return StepResult(
            () if prefill is None else self._choices(prefill),
            () if decode is None else self._choices(decode),
            self._device.seconds,
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

    def _prefill(self, rows: Sequence[PrefillRow]) -> _Pending:
        """Run prompt chunks; the chosen next tokens are meaningful for last chunks."""
        tokens, span = self._packed(rows)
        with self._device:
            hidden, stores = self._rounds.forward(tokens, span, self._take())
        self._put(stores)
        for row in rows:
            self._states.read(row)
        prompts = [self._of_prompt(row, hidden[index]) for index, row in enumerate(rows)]
        if not any(row.last for row in rows):
            empty = mx.array([[1, 0]] * len(rows), dtype=mx.int32)
            return _Pending(rows, Verdict(empty, None), [None] * len(rows), prompts)
        final = mx.take_along_axis(hidden, (span.lengths - 1)[:, None, None], axis=1)  # [R, 1, H]
        logits = self._target.logits(final)
        walks = [self._states.walk(row, ()) if row.last else None for row in rows]
        ends = [row.start + len(row.tokens) for row in rows]
        choices = [
            self._states.choice_row(row, end, walk) if row.last else ChoiceRow(SamplingParams(), 0)
            for row, end, walk in zip(rows, ends, walks, strict=True)
        ]
        chosen = choose(logits, mx.zeros((len(rows), 0), dtype=mx.int32), group_rows(choices, 1))
        packed = mx.concatenate([mx.ones_like(chosen), chosen], axis=1)
        kept = logits if self._wants_logits(rows) else None
        return _Pending(rows, Verdict(packed, kept), walks, prompts)

    def _of_prompt(self, row: PrefillRow, hidden: mx.array) -> tuple[TokenLogprob, ...]:
        state = self._states.get(row.row)
        if state is None or state.spec.prompt_logprobs is None:
            return ()
        following = [*row.tokens[1:], *([] if row.last else [row.following])]
        with self._device:
            return prompt_logprobs(
                hidden, following, state.spec.prompt_logprobs, self._target.logits
            )

    def _wants_logits(self, rows: Sequence[PrefillRow | DecodeRow]) -> bool:
        states = (self._states.get(row.row) for row in rows)
        return any(state is not None and state.spec.logprobs is not None for state in states)

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

    def _take(self) -> Stores:
        draft = self._draft_cache.take() if self._draft_cache else []
        return Stores(self._target_cache.take(), draft)

    def _put(self, stores: Stores) -> None:
        self._target_cache.put(stores.target)
        if self._draft_cache:
            self._draft_cache.put(stores.draft)

    def _round(self, rows: Sequence[DecodeRow]) -> _Pending:
        """Draft, verify and accept for all rows; in two halves where the host sees the draft."""
        width = self._padded_width(max(row.block for row in rows))
        if width > 1 and self._states.needs_host(rows):
            return self._guided_round(rows, width)
        states = self._states
        walks = [
            states.walk(row, ()) if width == 1 else states.foreseen(row, row.block) for row in rows
        ]
        shape, groups = self._shape(rows, width, walks)
        with self._device:
            verdict, stores = self._rounds.run(shape, _round_rows(rows), groups, self._take())
        self._put(stores)
        return _Pending(rows, verdict, walks)

    def _guided_round(self, rows: Sequence[DecodeRow], width: int) -> _Pending:
        """A round in which masks for whole drafts are computed between its halves."""
        stores = self._take()
        with self._device:
            shape = self._bare_shape(rows, width)  # one first half for all mixes of processing
            proposal, draft = self._rounds.propose(shape, _round_rows(rows), stores.draft)
            drafts = np.array(proposal.tokens)  # the first sync
        walks = [
            self._states.walk(row, drafts[index, : row.block - 1].tolist())
            for index, row in enumerate(rows)
        ]
        cut = []
        for index, (row, walk) in enumerate(zip(rows, walks, strict=True)):
            if isinstance(walk, Walk):
                drafts[index, : len(walk.tokens)] = walk.tokens
            cut.append(replace(row, block=_block_of(row, walk)))
        shape, groups = self._shape(rows, width, walks)
        with self._device:
            verdict, stores = self._rounds.verify(
                shape,
                _round_rows(cut),
                Proposal(mx.array(drafts)),
                groups,
                Stores(stores.target, draft),
            )
        self._put(stores)
        return _Pending(rows, verdict, walks)

    def _bare_shape(self, rows: Sequence[DecodeRow], width: int) -> RoundShape:
        attended = bucket(max(row.length + row.block for row in rows))
        span = SpanShape(width, attended, self._target_cache.trash)
        return RoundShape(span, self._drafter is not None and width > 1)

    def _shape(
        self, rows: Sequence[DecodeRow], width: int, walks: Sequence[Walk | str | None]
    ) -> tuple[RoundShape, tuple[RowGroup, ...]]:
        """The shape of a round, and its rows' processing."""
        choices = [
            self._states.choice_row(row, row.length + 1, walk)
            for row, walk in zip(rows, walks, strict=True)
        ]
        groups = group_rows(choices, width)
        kinds = tuple(group.kind for group in groups)
        bare = self._bare_shape(rows, width)
        return replace(bare, kinds=kinds, logits=self._wants_logits(rows)), groups

    def _choices(self, pending: _Pending) -> tuple[Chosen, ...]:
        """What an evaluated verdict says, taken into the rows' states."""
        packed: Any = pending.verdict.packed.tolist()
        chosen = [
            self._commit(row, tuple(line[1 : 1 + line[0]]), walk)
            for row, line, walk in zip(pending.rows, packed, pending.walks, strict=True)
        ]
        entries = self._entries(pending, chosen)
        prompts = pending.prompts or [()] * len(chosen)
        return tuple(
            replace(one, logprobs=entries.get(index, ()), prompt_logprobs=prompt)
            if index in entries or prompt
            else one
            for index, (one, prompt) in enumerate(zip(chosen, prompts, strict=True))
        )

    def _entries(
        self, pending: _Pending, chosen: Sequence[Chosen]
    ) -> dict[int, tuple[TokenLogprob, ...]]:
        """Log-probabilities of what was chosen, by row index, for the rows that asked."""
        if pending.verdict.logits is None:
            return {}
        wanted = [
            WantedLogprobs(index, chosen[index].tokens, state.spec.logprobs)
            for index, row in enumerate(pending.rows)
            if (state := self._states.get(row.row)) is not None and state.spec.logprobs is not None
        ]
        with self._device:
            return chosen_logprobs(pending.verdict.logits, wanted)

    def _commit(
        self, row: PrefillRow | DecodeRow, tokens: tuple[int, ...], walk: Walk | str | None
    ) -> Chosen:
        if isinstance(walk, str):
            return Chosen((), failure=walk)
        state = self._states.get(row.row)
        if state is None or (isinstance(row, PrefillRow) and not row.last):
            return Chosen(tokens)
        try:
            return Chosen(tokens[: state.commit(tokens)])
        except ConstraintError as error:
            return Chosen((), failure=str(error))

    def _padded_width(self, block: int) -> int:
        """Round up to a power of two or the full block: few shapes to trace."""
        power: int = 1 << (block - 1).bit_length()
        return min(power, self._block_size) if block <= self._block_size else power


def _round_rows(rows: Sequence[DecodeRow]) -> RoundRows:
    return RoundRows(
        mx.array([row.anchor for row in rows], dtype=mx.int32),
        mx.array([row.length for row in rows], dtype=mx.int32),
        mx.array([row.block for row in rows], dtype=mx.int32),
    )


def _block_of(row: DecodeRow, walk: Walk | str | None) -> int:
    """The tokens that are verified: up to where the draft leaves what is allowed."""
    if walk is None:
        return row.block
    return 1 if isinstance(walk, str) else len(walk.masks)
