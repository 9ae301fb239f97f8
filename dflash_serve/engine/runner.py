"""Runs step plans on the device: prefill chunks, and rounds of draft, verify, accept, roll back.

A round is one graph and one host sync, two where a row's masks depend on its draft. All caches of a
row always hold the same number of tokens: the drafter's context is written from the verify pass's
own taps, for the whole block, and what is rejected is rolled back in both.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.base import AdapterError, DraftAdapter, FillingDrafter, TargetAdapter
from dflash_serve.engine.cache.pool import DRAFTER, SECOND, TARGET, CachePool, Caches
from dflash_serve.engine.cache.span import Span
from dflash_serve.engine.choice import ChoiceRow, RowGroup, choose, group_rows
from dflash_serve.engine.constraint import Walk
from dflash_serve.engine.deferred import KEPT_TOKENS, DeferredContext
from dflash_serve.engine.dual_draft import branches
from dflash_serve.engine.pending import Pending, Walks, taken, with_logprobs
from dflash_serve.engine.plan import (
    Chosen,
    ContextRow,
    DecodeRow,
    PrefillRow,
    StepPlan,
    StepResult,
    nothing,
)
from dflash_serve.engine.rounds import (
    Drafters,
    Proposal,
    RoundRows,
    Rounds,
    RoundShape,
    Verdict,
)
from dflash_serve.engine.row_logprobs import prompt_logprobs
from dflash_serve.engine.row_state import RowStates
from dflash_serve.engine.types import SamplingParams, TokenLogprob
from dflash_serve.kernels.attention import orders_keys


class _Stopwatch:
    """Seconds spent inside its ``with`` blocks: the device has work, as against waiting for it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *failure: object) -> None:
        self.seconds += time.perf_counter() - self._started


class DeviceRunner:
    """A `Runner` over one target and, unless decoding is plain, its drafter, or two.

    ``block_size`` is the usual block, to which shorter ones are padded at most. ``second`` goes on
    behind the drafter's likely breaks, in rounds of trees. ``compiled`` off runs the same round op
    by op.

    Raises:
        AdapterError: a layer's kind has no cache, its caches cannot roll such a block back, or
            ``second`` was trained with shorter ones.
    """

    def __init__(
        self,
        target: TargetAdapter,
        drafter: DraftAdapter | None,
        block_size: int,
        *,
        second: FillingDrafter | None = None,
        compiled: bool = True,
    ) -> None:
        self._target = target
        self._second = second
        self._drafters = _drafters(drafter, second)
        self._block_size = block_size
        self._compiled = compiled
        self._states = RowStates(target.vocab_size)
        self._deferred = DeferredContext()
        self._pool = self._new_pool()
        self._rounds = self._new_rounds()
        self._device = _Stopwatch()
        _check_block(self._pool, self._drafters, block_size)

    @property
    def target(self) -> TargetAdapter:
        return self._target

    @property
    def rows(self) -> int:
        """Rows that have caches."""
        return len(self._pool)

    @property
    def cache_bytes(self) -> int:
        """What the caches of all rows take now."""
        return self._pool.nbytes

    @property
    def shows_context(self) -> bool:
        """Whether `ContextRow`s can be run: the target's caches keep what every token saw."""
        return self._pool.models[TARGET].holds_all

    def bytes_for(self, tokens: int) -> int:
        """The most that a row takes while it grows to ``tokens`` tokens: a `RowBytes`."""
        return self._pool.bytes_for(tokens) + self.bytes_laid_aside

    @property
    def bytes_laid_aside(self) -> int:
        """The most that plain rounds keep of a row until its drafter needs it."""
        return KEPT_TOKENS * self._rounds.tap_bytes

    def beside(self, drafter: DraftAdapter | None, block_size: int) -> "DeviceRunner":
        """A second runner of the same target, with another drafter and no rows yet.

        Raises:
            AdapterError: as at construction.
        """
        return DeviceRunner(
            self._target, drafter, block_size, second=self._second, compiled=self._compiled
        )

    def draft_with(self, drafter: DraftAdapter | None, block_size: int) -> None:
        """Draft with another drafter, or not at all, from the next step on.

        It starts with an empty context: for rows that are under way, `ContextRow`s bring it. The
        old drafter, its context and its graphs are let go.

        Raises:
            AdapterError: as at construction; the old drafter goes on.
        """
        drafters = _drafters(drafter, self._second)
        _check_block(_pool(self._target, drafters), drafters, block_size)
        self._drafters = drafters
        self._deferred = DeferredContext()
        self._block_size = block_size
        for name in (DRAFTER, SECOND):
            self._pool.replace(name, drafters[name].cache_specs if name in drafters else None)
        self._rounds.close()
        self._rounds = self._new_rounds()
        mx.clear_cache()

    def reset(self) -> None:
        """Forget every row and free its caches, as after a step that raised; weights stay."""
        self._rounds.close()
        self._deferred = DeferredContext()
        self._states = RowStates(self._target.vocab_size)
        self._pool = self._new_pool()
        self._rounds = self._new_rounds()
        mx.clear_cache()

    def close(self) -> None:
        """Let go of graphs and caches; MLX aborts the process if that is left to its exit."""
        self.reset()

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        self._device = _Stopwatch()
        self._rounds.cold = False
        self._pool.free(plan.closed)
        self._states.update(plan.closed, plan.opened)
        self._deferred.forget(plan.closed)
        if plan.context:
            self._catch_up()
            self._show(plan.context)
        prefill = self._prefill(plan.prefill) if plan.prefill else None
        decode = self._round(plan.decode, plan.nodes) if plan.decode else None
        begun = [pending for pending in (prefill, decode) if pending is not None]
        lazy, caches = [pending.lazy for pending in begun], self._pool.arrays()
        with self._device:
            mx.async_eval(lazy, caches)  # type: ignore[no-untyped-call]
            meanwhile()
            mx.eval(lazy, caches)
        chosen = (
            () if prefill is None else self._choices(prefill),
            () if decode is None else self._in_order(plan.decode, decode),
        )
        with self._device:  # the device writes while the host goes on
            starts = {row.row: row.start for row in plan.prefill}
            starts |= {row.row: row.length for row in plan.decode}
            mx.async_eval(self._pool.settle(starts))  # type: ignore[no-untyped-call]
        nodes = decode.nodes if decode else 0
        return StepResult(*chosen, self._device.seconds, nodes, self._rounds.cold)

    def _new_pool(self) -> CachePool:
        return _pool(self._target, self._drafters)

    def _new_rounds(self) -> Rounds:
        return Rounds(self._target, self._drafters, self._pool.models, self._compiled)

    def _prefill(self, rows: Sequence[PrefillRow]) -> Pending:
        """Run prompt chunks; the chosen next tokens are meaningful for last chunks."""
        tokens, span = self._packed(rows)
        numbers = [row.row for row in rows]
        with self._device:
            forward = self._rounds.forward(tokens, span, self._pool.take(numbers))
            self._pool.put(numbers, forward.commit(span.lengths))
        hidden = forward.hidden
        for row in rows:
            self._states.read(row)
        prompts = [self._of_prompt(row, hidden[index]) for index, row in enumerate(rows)]
        if not any(row.last for row in rows):
            nothing = mx.zeros((len(rows), 1), dtype=mx.int32)
            return Pending(rows, Verdict.of_first(nothing), [None] * len(rows), prompts)
        final = mx.take_along_axis(hidden, (span.lengths - 1)[:, None, None], axis=1)  # [R, 1, H]
        logits = self._target.logits(final)
        walks = [self._states.walk(row, ()) if row.last else None for row in rows]
        ends = [row.start + len(row.tokens) for row in rows]
        choices = [
            self._states.choice_row(row, end, walk) if row.last else ChoiceRow(SamplingParams(), 0)
            for row, end, walk in zip(rows, ends, walks, strict=True)
        ]
        chosen = choose(logits, mx.zeros((len(rows), 0), dtype=mx.int32), group_rows(choices, 1))
        kept = logits if self._wants_logits(rows) else None
        return Pending(rows, Verdict.of_first(chosen, kept), walks, prompts)

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
        """Give the drafter its context of tokens that the target's caches hold."""
        tokens, span = self._packed(rows)
        numbers = [row.row for row in rows]
        with self._device:
            shown = self._rounds.show(tokens, span, self._pool.take(numbers))
            # evaluated now: the target's caches must not be shared when this step writes to them
            mx.eval([shown[name] for name in self._drafters])
            self._pool.put(numbers, shown)
            mx.eval(self._pool.settle({row.row: row.start for row in rows}))

    def _catch_up(self) -> None:
        """Give the drafters their context of plain rounds."""
        due = self._deferred.take()
        if due is None:
            return
        with self._device:
            caches = self._rounds.append(due.taps, due.span, self._pool.take(due.rows))
            mx.eval([caches[name] for name in self._drafters])
            self._pool.put(due.rows, caches)
            mx.eval(self._pool.settle(due.starts))

    def _packed(self, rows: Sequence[PrefillRow | ContextRow]) -> tuple[mx.array, Span]:
        """Tokens [R, width], padded, and where they stand; with room for them in the caches."""
        width = max(len(row.tokens) for row in rows)
        tokens = np.zeros((len(rows), width), dtype=np.int32)
        for index, row in enumerate(rows):
            tokens[index, : len(row.tokens)] = row.tokens
            self._pool.reserve(row.row, row.start + len(row.tokens))
        columns = tuple(len(row.tokens) for row in rows)
        offsets = mx.array([row.start for row in rows], dtype=mx.int32)
        return mx.array(tokens), Span(offsets, mx.array(columns, dtype=mx.int32), width, columns)

    def _round(self, decode: Sequence[DecodeRow], nodes: int) -> Pending:
        """Draft, verify and accept for all rows; in two halves where the host sees the draft.

        Rows of one length stand together: fewer shapes.
        """
        width = self._padded_width(max(row.block for row in decode))
        constrained = self._states.constrained(decode)
        if constrained or width == 1 or not self._drafters or self._turns(decode, nodes):
            nodes = 0
        columns = max(width, nodes, branches(width) * width if nodes and self._second else 0)
        for row in decode:
            self._pool.reserve(row.row, row.length + columns)
        rows = sorted(decode, key=lambda row: self._pool.capacity(row.row))
        counted = constrained and self._pool.models[TARGET].recurs
        # a round that drafts nothing leaves the drafters' caches alone, and their context for later
        defer = width == 1 and bool(self._drafters) and not counted
        if not defer or self._deferred.full:
            self._catch_up()
        if counted:
            return self._counted_round(rows, width)
        if width > 1 and self._states.needs_host(rows):
            return self._guided_round(rows, width)
        states = self._states
        walks = [
            states.walk(row, ()) if width == 1 else states.foreseen(row, row.block) for row in rows
        ]
        shape, groups = self._shape(rows, width, walks)
        shape = replace(shape, nodes=nodes, defer=defer)
        numbers = [row.row for row in rows]
        with self._device:
            caches = self._pool.take(numbers)
            given = {TARGET: caches[TARGET]} if defer else caches
            verdict, after = self._rounds.run(shape, _round_rows(rows), groups, given)
        self._pool.put(numbers, caches | after)
        if verdict.taps is not None:
            self._deferred.add(numbers, [row.length for row in rows], verdict.taps)
        return Pending(rows, verdict, walks, nodes=nodes)

    def _turns(self, decode: Sequence[DecodeRow], nodes: int) -> bool:
        """Whether trees would meet the end of a ring where sums are exact to the bit."""
        store = self._pool.models[TARGET]
        return orders_keys() and any(store.turns(row.length, nodes) for row in decode)

    def _guided_round(self, rows: Sequence[DecodeRow], width: int) -> Pending:
        """A round in which masks for whole drafts are computed between its halves."""
        numbers = [row.row for row in rows]
        guided = self._guided(rows, width)
        with self._device:
            verdict, caches = self._rounds.verify(
                guided.shape, guided.rows, guided.proposal, guided.groups, guided.caches
            )
        self._pool.put(numbers, caches)
        return Pending(rows, verdict, guided.walks)

    def _counted_round(self, rows: Sequence[DecodeRow], width: int) -> Pending:
        """A round whose states wait for the host's count: a constraint may cut what is accepted."""
        guided = self._guided(rows, width)
        with self._device:
            verdict, forward = self._rounds.judge(
                guided.shape, guided.rows, guided.proposal, guided.groups, guided.caches
            )
        return Pending(rows, verdict, guided.walks, forward=forward)

    def _guided(self, rows: Sequence[DecodeRow], width: int) -> "_Guided":
        """A round's first half, and what its second half takes: masks are computed in between."""
        caches = self._pool.take([row.row for row in rows])
        with self._device:
            shape = self._bare_shape(rows, width)  # one first half for all mixes of processing
            proposal, caches = self._rounds.propose(shape, _round_rows(rows), caches)
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
        return _Guided(shape, _round_rows(cut), Proposal(mx.array(drafts)), groups, caches, walks)

    def _bare_shape(self, rows: Sequence[DecodeRow], width: int) -> RoundShape:
        capacities = tuple(self._pool.capacity(row.row) for row in rows)
        return RoundShape(width, capacities, bool(self._drafters) and width > 1)

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

    def _in_order(self, decode: Sequence[DecodeRow], pending: Pending) -> tuple[Chosen, ...]:
        """The choices of a round in the plan's order."""
        chosen = dict(zip(pending.numbers, self._choices(pending), strict=True))
        return tuple(chosen[row.row] for row in decode)

    def _choices(self, pending: Pending) -> tuple[Chosen, ...]:
        """What an evaluated verdict says, taken into the rows' states."""
        chosen = taken(pending, self._states)
        if pending.forward is not None:
            counts = mx.array([len(one.tokens) for one in chosen], dtype=mx.int32)
            self._pool.put(pending.numbers, pending.forward.commit(counts))
        with self._device:
            return with_logprobs(pending, chosen, self._states)

    def _padded_width(self, block: int) -> int:
        """Round up to a power of two or the full block: few shapes to trace."""
        power: int = 1 << (block - 1).bit_length()
        return min(power, self._block_size) if block <= self._block_size else power


@dataclass(frozen=True, slots=True)
class _Guided:
    """What the second half of a round takes when the host has seen the draft."""

    shape: RoundShape
    rows: RoundRows
    proposal: Proposal
    groups: tuple[RowGroup, ...]
    caches: Caches
    walks: Walks


def _drafters(
    drafter: DraftAdapter | None, second: FillingDrafter | None
) -> dict[str, DraftAdapter]:
    """By the names of their caches; without a first one the second has nothing to do."""
    if drafter is None:
        return {}
    return {DRAFTER: drafter} if second is None else {DRAFTER: drafter, SECOND: second}


def _pool(target: TargetAdapter, drafters: Drafters) -> CachePool:
    """A pool without rows for a target and its drafters."""
    specs = {name: drafter.cache_specs for name, drafter in drafters.items()}
    return CachePool({TARGET: target.cache_specs, **specs})


def _check_block(pool: CachePool, drafters: Drafters, block_size: int) -> None:
    """Refuse blocks that rings cannot roll back, or that the second drafter was not trained for."""
    second = drafters.get(SECOND)
    if second is not None and block_size > second.block_size:
        raise AdapterError(
            f"the block size is {block_size}, but the second drafter was trained with "
            f"{second.block_size}"
        )
    spares = [store.spare for store in pool.models.values() if store.spare is not None]
    if spares and block_size > min(spares):
        raise AdapterError(
            f"the block size is {block_size}, but layers with a sliding window hold "
            f"{min(spares)} tokens beyond it: use a block of at most {min(spares)}"
        )


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
