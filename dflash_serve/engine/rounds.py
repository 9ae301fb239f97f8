"""The two halves of a round: propose a draft, verify it.

`propose` may be any proposer's; `verify` is the target's pass, each row's processing, the
acceptance scan, and the commit of what it accepts to all caches. Rows whose masks depend on the
draft need the host in between. Owner of the compiled graphs; knows no rows by number.
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.engine.cache.pool import DRAFTER, TARGET, Caches
from dflash_serve.engine.cache.span import Span
from dflash_serve.engine.cache.stores import ModelStore, View, attending, committed
from dflash_serve.engine.choice import Arrays, GroupKind, RowGroup, choose
from dflash_serve.kernels.acceptance_scan import acceptance_scan

_KEPT = 256
"""Shapes that are remembered: rows of all kinds and lengths can be mixed in more ways than memory
holds."""
_TRACED_AFTER = 2
"""Rounds of one shape that run op by op before it is traced: a trace costs a few of them."""
Sizes = tuple[tuple[int, ...], ...]


class Proposal(NamedTuple):
    """A draft for every row: ``tokens`` [R, width - 1] int32, a chain behind the anchor."""

    tokens: mx.array


class Verdict(NamedTuple):
    """``packed`` [R, width + 1] as `acceptance_scan`'s; ``logits`` [R, width, V], or none kept."""

    packed: mx.array
    logits: mx.array | None

    @classmethod
    def of_first(cls, chosen: mx.array, logits: mx.array | None = None) -> "Verdict":
        """One token per row, [R, 1] int32, without drafts before it."""
        return cls(mx.concatenate([mx.ones_like(chosen), chosen], axis=1), logits)

    @property
    def counts(self) -> mx.array:
        """[R] int32: how many tokens each row commits."""
        return self.packed[:, 0]

    def tokens(self) -> list[tuple[int, ...]]:
        """The tokens that each row commits, on the host."""
        rows: Any = self.packed.tolist()
        return [tuple(tokens[:count]) for count, *tokens in rows]


class RoundRows(NamedTuple):
    """The rows of a round, [R] int32 each: anchor tokens, tokens held before, block lengths."""

    anchors: mx.array
    offsets: mx.array
    blocks: mx.array


@dataclass(frozen=True, slots=True)
class RoundShape:
    """What traced halves depend on besides array shapes.

    ``width``: the widest block. ``capacities``: of the rows' caches. ``draft``: the drafter
    proposes; ``logits``: they are kept for log-probabilities.
    """

    width: int
    capacities: tuple[int, ...]
    draft: bool
    kinds: tuple[GroupKind, ...] = ()
    logits: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    """A target's pass over some rows, before it is known how many tokens of each row stay.

    ``hidden`` [R, width, H] after the final norm.
    """

    hidden: mx.array
    target: list[View]
    drafter: list[View] | None

    def commit(self, counts: mx.array) -> Caches:
        """The caches when the first ``counts`` [R] int32 tokens of each row stay."""
        caches = {TARGET: committed(self.target, counts)}
        if self.drafter is not None:
            caches[DRAFTER] = committed(self.drafter, counts)
        return caches


@dataclass(slots=True)
class _Graph:
    """A shape of round: how often it was run, and its trace if that was often enough."""

    function: Callable[..., Any]
    uses: int = 0
    traced: Callable[..., Any] | None = None


class Rounds:
    """The passes of one target and drafter over rows' caches. ``compiled`` off traces nothing."""

    def __init__(
        self,
        target: TargetAdapter,
        drafter: DraftAdapter | None,
        stores: dict[str, ModelStore],
        compiled: bool = True,
    ) -> None:
        self._target = target
        self._drafter = drafter
        self._stores = stores
        self._compiled = compiled
        # one trace each, so that their number is bounded: the one used last comes last
        self._graphs: OrderedDict[tuple[str, RoundShape, Sizes], _Graph] = OrderedDict()

    def close(self) -> None:
        """Let the graphs go, on the thread that made them."""
        self._graphs.clear()

    def run(
        self, shape: RoundShape, rows: RoundRows, groups: Sequence[RowGroup], caches: Caches
    ) -> tuple[Verdict, Caches]:
        """A whole round in one graph."""
        passes = self._for_graph()

        def both(rows: RoundRows, arrays: list[Arrays], caches: Caches) -> tuple[Verdict, Caches]:
            proposal, after = passes._propose(shape, rows, caches)
            return passes._settle(shape, rows, proposal, arrays, after)

        result: tuple[Verdict, Caches] = self._graph("run", shape, _sizes(groups), both)(
            rows, [group.arrays for group in groups], caches
        )
        return result

    def propose(
        self, shape: RoundShape, rows: RoundRows, caches: Caches
    ) -> tuple[Proposal, Caches]:
        """The first half by itself."""
        passes = self._for_graph()

        def half(rows: RoundRows, caches: Caches) -> tuple[Proposal, Caches]:
            return passes._propose(shape, rows, caches)

        result: tuple[Proposal, Caches] = self._graph("propose", shape, (), half)(rows, caches)
        return result

    def verify(
        self,
        shape: RoundShape,
        rows: RoundRows,
        proposal: Proposal,
        groups: Sequence[RowGroup],
        caches: Caches,
    ) -> tuple[Verdict, Caches]:
        """The second half by itself."""
        passes = self._for_graph()

        def half(
            rows: RoundRows, proposal: Proposal, arrays: list[Arrays], caches: Caches
        ) -> tuple[Verdict, Caches]:
            return passes._settle(shape, rows, proposal, arrays, caches)

        result: tuple[Verdict, Caches] = self._graph("verify", shape, _sizes(groups), half)(
            rows, proposal, [group.arrays for group in groups], caches
        )
        return result

    def judge(
        self,
        shape: RoundShape,
        rows: RoundRows,
        proposal: Proposal,
        groups: Sequence[RowGroup],
        caches: Caches,
    ) -> tuple[Verdict, Forward]:
        """The second half up to its verdict: the host says how many tokens are committed."""
        arrays = [group.arrays for group in groups]
        return self._judge(shape, rows, proposal, arrays, caches)

    def forward(self, tokens: mx.array, span: Span, caches: Caches) -> Forward:
        """Target forward over [R, width] tokens, its taps into the drafter's context."""
        views = self._stores[TARGET].views(caches[TARGET], span)
        taps = self._drafter.target_layer_ids if self._drafter else ()
        captured = self._target.forward(tokens, views, taps)
        if self._drafter is None:
            return Forward(captured.hidden, views, None)
        context = self._stores[DRAFTER].views(caches[DRAFTER], span)
        if captured.taps is not None:
            self._drafter.append_context(captured.taps, attending(context))
        return Forward(captured.hidden, views, context)

    def show(self, tokens: mx.array, span: Span, caches: Caches) -> Caches:
        """Give the drafter its context of tokens that the target's caches hold already.

        The target runs over them once more against its own stored keys and values, which stay as
        they are: what it emits next cannot change.
        """
        assert self._drafter is not None
        held = self._stores[TARGET].views(caches[TARGET], span, held=True)
        taps = self._target.forward(tokens, held, self._drafter.target_layer_ids).taps
        assert taps is not None  # a drafter taps at least one layer
        context = self._stores[DRAFTER].views(caches[DRAFTER], span)
        self._drafter.append_context(taps, attending(context))
        return {**caches, DRAFTER: committed(context, span.lengths)}

    def _propose(
        self, shape: RoundShape, rows: RoundRows, caches: Caches
    ) -> tuple[Proposal, Caches]:
        count = rows.anchors.shape[0]
        if not shape.draft or self._drafter is None:
            return Proposal(mx.zeros((count, shape.width - 1), dtype=mx.int32)), caches
        views = self._stores[DRAFTER].views(caches[DRAFTER], _span(shape, rows))
        drafts = self._drafter.draft(rows.anchors, shape.width, attending(views)).chain()
        return Proposal(drafts), {**caches, DRAFTER: committed(views, rows.blocks)}

    def _judge(
        self,
        shape: RoundShape,
        rows: RoundRows,
        proposal: Proposal,
        arrays: Sequence[Arrays],
        caches: Caches,
    ) -> tuple[Verdict, Forward]:
        drafts = proposal.tokens
        tokens = mx.concatenate([rows.anchors[:, None], drafts], axis=1)
        forward = self.forward(tokens, _span(shape, rows), caches)
        logits = self._target.logits(forward.hidden)
        groups = [RowGroup(kind, part) for kind, part in zip(shape.kinds, arrays, strict=True)]
        packed = acceptance_scan(drafts, choose(logits, drafts, groups), rows.blocks)
        return Verdict(packed, logits if shape.logits else None), forward

    def _settle(
        self,
        shape: RoundShape,
        rows: RoundRows,
        proposal: Proposal,
        arrays: Sequence[Arrays],
        caches: Caches,
    ) -> tuple[Verdict, Caches]:
        verdict, forward = self._judge(shape, rows, proposal, arrays, caches)
        return verdict, forward.commit(verdict.counts)

    def _for_graph(self) -> "Rounds":
        """This object, for a function that its own graphs keep, without a reference cycle.

        MLX finds a trace by its function's address, in a table of the thread that traced it, and
        takes it out on the thread that frees the function. A cycle would be freed by whichever
        thread collects garbage, and the next function at that address would run an old trace.
        """
        return weakref.proxy(self)

    def _graph(
        self, half: str, shape: RoundShape, sizes: Sizes, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        if not self._compiled:
            return function
        key = (half, shape, sizes)
        graph = self._graphs.setdefault(key, _Graph(function))
        self._graphs.move_to_end(key)
        if len(self._graphs) > _KEPT:
            self._graphs.popitem(last=False)
        graph.uses += 1
        if graph.traced is None and graph.uses > _TRACED_AFTER:
            graph.traced = mx.compile(graph.function)
        return graph.traced or function


def _span(shape: RoundShape, rows: RoundRows) -> Span:
    columns = (shape.width,) * len(shape.capacities)
    return Span(rows.offsets, rows.blocks, shape.width, columns)


def _sizes(groups: Sequence[RowGroup]) -> Sizes:
    """What a graph is traced for besides its `RoundShape`: rows of groups, table lengths."""
    arrays = (group.arrays[name] for group in groups for name in sorted(group.arrays))
    return tuple(array.shape for array in arrays)
